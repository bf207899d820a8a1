-- From the attempts: a model is charged for its own tries, also when another one gave the answer in the end.
SELECT model_id AS key,
       count(DISTINCT request_id) AS requests,
       coalesce(sum(prompt_tokens), 0) + coalesce(sum(completion_tokens), 0) AS tokens,
       sum(cost_usd) AS cost_usd,
       count(DISTINCT request_id) FILTER (WHERE cost_usd IS NULL AND outcome <> 'refused') AS unpriced
FROM attempts
WHERE created_at >= coalesce($1::timestamptz, '-infinity')
GROUP BY model_id
ORDER BY cost_usd DESC NULLS LAST, key
