-- From the attempts: a model is charged for its own tries, also when another one gave the answer in the end.
SELECT model_id AS key,
       count(DISTINCT request_id) AS requests,
       coalesce(sum(prompt_tokens), 0) + coalesce(sum(completion_tokens), 0) AS tokens,
       sum(cost_usd) AS cost_usd,
       count(DISTINCT request_id) FILTER (WHERE cost_usd IS NULL AND outcome <> 'refused') AS unpriced
FROM attempts
WHERE created_at >= coalesce($1::timestamptz, '-infinity')
  AND (request_id >= (SELECT uuidv7_floor(coalesce($1, '-infinity') - interval '7 days'))
       OR request_id < uuidv7_floor('2024-01-01Z'))
GROUP BY model_id
ORDER BY cost_usd DESC NULLS LAST, key
