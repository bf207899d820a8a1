-- How sure answers were beside how they were judged, by model and tenth of confidence. Judged is the mean of all judgements of
-- a task; a task's name that several requests bear is left out, because it is unknown which answer was meant.
SELECT r.model_id,
       least(9, floor(r.confidence * 10))::integer AS tenth,
       count(*) AS answers,
       avg(r.confidence) AS confidence,
       avg(judged.score) AS judged
FROM responses r
JOIN (SELECT task_id, avg(score) AS score FROM feedback GROUP BY task_id) AS judged USING (task_id)
WHERE r.status = 'ok'
  AND r.confidence IS NOT NULL
  AND ($1::timestamptz IS NULL OR r.created_at >= $1)
  AND ($2::text IS NULL OR r.model_id = $2)
  AND NOT EXISTS (SELECT FROM responses other WHERE other.task_id = r.task_id AND other.request_id <> r.request_id)
GROUP BY 1, 2
ORDER BY 1, 2
