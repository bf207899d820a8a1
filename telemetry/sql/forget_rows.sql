-- Judgements bear a task's name, not a request's: they go with the first request that bore it.
WITH tries AS (DELETE FROM attempts WHERE request_id = ANY ($1::uuid[]) RETURNING 1),
     judged AS (DELETE FROM feedback WHERE task_id IN (SELECT unnest($2::text[])) RETURNING 1),
     decided AS (DELETE FROM decisions WHERE request_id = ANY ($1::uuid[]) RETURNING 1),
     asked AS (DELETE FROM responses WHERE request_id = ANY ($1::uuid[]) RETURNING 1)
SELECT (SELECT count(*) FROM asked) AS responses,
       (SELECT count(*) FROM tries) AS attempts,
       (SELECT count(*) FROM judged) AS feedback,
       (SELECT count(*) FROM decided) AS decisions
