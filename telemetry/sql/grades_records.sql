-- Of each model at each worker its last forty tries, no older than an hour or the last time it lost a grade.
WITH lately AS (
    SELECT request_id, task_id, model_id, worker_id, outcome, confidence, duration_ms, cost_usd, created_at,
           prompt_tokens, completion_tokens, queue_ms, ttft_ms
    FROM attempts
    WHERE created_at > now() - interval '1 hour'
      AND outcome IN ('ok', 'failed', 'uncertain', 'late_discarded', 'truncated')
      -- A request that no worker could answer says nothing of the workers that were asked.
      AND (error_code IS NULL OR error_code NOT IN ('invalid_request', 'payload_too_large'))
    ORDER BY created_at DESC
    LIMIT 50000
), since AS (
    SELECT model_id, worker_id, max(created_at) AS at
    FROM grades
    WHERE previous IS NOT NULL AND (grade IN ('benched', 'probation') OR by_hand)
    GROUP BY model_id, worker_id
), tries AS (
    SELECT l.*, row_number() OVER (PARTITION BY l.model_id, l.worker_id ORDER BY l.created_at DESC) AS nth
    FROM lately l
    LEFT JOIN since s USING (model_id, worker_id)
    WHERE s.at IS NULL OR l.created_at > s.at
)
SELECT t.model_id,
       t.worker_id,
       count(*) AS tries,
       count(*) FILTER (WHERE t.outcome = 'ok') AS answers,
       count(*) FILTER (WHERE t.nth <= 20) AS recent_tries,
       count(*) FILTER (WHERE t.nth <= 20 AND t.outcome = 'ok') AS recent_answers,
       (avg(coalesce(f.score, t.confidence)) FILTER (WHERE t.nth <= 20 AND t.outcome = 'ok'))::double precision AS confidence,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY t.duration_ms) FILTER (WHERE t.outcome = 'ok') AS p50_ms,
       (sum(t.cost_usd) / nullif(count(*) FILTER (WHERE t.outcome = 'ok'), 0))::double precision AS cost_per_answer,
       (avg(t.prompt_tokens) FILTER (WHERE t.outcome = 'ok'))::double precision AS prompt_tokens,
       (avg(t.completion_tokens) FILTER (WHERE t.outcome = 'ok'))::double precision AS completion_tokens,
       avg(t.duration_ms - coalesce(t.queue_ms, 0)) FILTER (WHERE t.outcome = 'ok') AS service_ms,
       avg(t.ttft_ms - coalesce(t.queue_ms, 0)) FILTER (WHERE t.outcome = 'ok') AS first_ms
FROM tries t
LEFT JOIN LATERAL (SELECT avg(score) AS score FROM feedback WHERE task_id = t.task_id AND t.nth <= 20) AS f ON t.nth <= 20
WHERE t.nth <= 40
GROUP BY t.model_id, t.worker_id
