SELECT make_decision_days($1::timestamptz[]) AS name
