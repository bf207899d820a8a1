SELECT has_table_privilege('responses', $1) AND has_table_privilege('attempts', $1) AND has_table_privilege('feedback', $1)
   AND ($1 = 'UPDATE' OR has_table_privilege('decisions', $1))
   AND has_table_privilege('dead_letters', 'DELETE') AS allowed
