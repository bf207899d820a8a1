-- Mirrored questions: what the live model and the candidate made of the same ones. A mirrored request's task bears the
-- request id of the live one behind `mirror:`.
WITH mirrored AS MATERIALIZED (
    SELECT *, substring(task_id FROM 8)::uuid AS live_request_id
    FROM responses
    WHERE task_id ~ '^mirror:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
      AND ($1::timestamptz IS NULL OR created_at >= $1)
), pairs AS (
    SELECT live.model_id AS live_model,
           coalesce(mirrored.model_id, tried.model_id) AS candidate,
           live.duration_ms AS live_ms, mirrored.duration_ms AS candidate_ms,
           live.cost_usd AS live_cost, mirrored.cost_usd AS candidate_cost,
           live.confidence AS live_confidence, mirrored.confidence AS candidate_confidence,
           live_judged.score AS live_score, candidate_judged.score AS candidate_score,
           mirrored.status = 'ok' AS answered
    FROM mirrored
    JOIN responses live ON live.request_id = mirrored.live_request_id
    LEFT JOIN LATERAL (
        SELECT a.model_id FROM attempts a WHERE a.request_id = mirrored.request_id ORDER BY a.attempt LIMIT 1
    ) AS tried ON true
    LEFT JOIN LATERAL (SELECT avg(f.score) AS score FROM feedback f WHERE f.task_id = live.task_id) AS live_judged ON true
    LEFT JOIN LATERAL (
        SELECT avg(f.score) AS score FROM feedback f WHERE f.task_id = mirrored.task_id
    ) AS candidate_judged ON true
)
SELECT live_model, candidate, count(*) AS questions, count(*) FILTER (WHERE NOT answered) AS failed,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY live_ms) AS live_p50_ms,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY candidate_ms) FILTER (WHERE answered) AS candidate_p50_ms,
       sum(live_cost) AS live_cost_usd, sum(candidate_cost) AS candidate_cost_usd,
       count(*) FILTER (WHERE live_cost IS NULL OR candidate_cost IS NULL) AS unpriced,
       avg(live_confidence) AS live_confidence, avg(candidate_confidence) FILTER (WHERE answered) AS candidate_confidence,
       avg(live_score) AS live_judged, avg(candidate_score) AS candidate_judged
FROM pairs
GROUP BY live_model, candidate
ORDER BY live_model, candidate
