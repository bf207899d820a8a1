-- The tries at requests $3 to $4 as fill_responses makes them. Every 20th needed a second one.
INSERT INTO attempts (
    request_id, attempt, task_id, created_at, worker_id, backend, model_id, epoch, outcome, duration_ms, ttft_ms,
    queue_ms, prompt_tokens, completion_tokens, cached_tokens, cost_usd, price, confidence, simulated
)
SELECT (left(uuidv7_floor(asked)::text, 14) || '7' || right(md5(n::text), 3) || '-8' || right(md5('a' || n), 3) || '-'
           || right(md5('b' || n), 12))::uuid,
       attempt, 'task-' || n, asked, 'worker-' || n % 7, 'openai', 'model-' || n % 13, md5((n % 7)::text),
       CASE WHEN attempt = 2 OR n % 20 <> 0 THEN 'ok' ELSE 'failed' END,
       used * 10.5, used * 1.25, 0.5, used, 2 * used, used / 3, CASE WHEN n % 40 <> 0 THEN used * 0.00000135 END,
       '{"input_per_mtok": "0.15", "output_per_mtok": "0.60", "currency": "USD"}', 0.9, false
FROM generate_series($3::bigint, $4::bigint) AS n,
     LATERAL (SELECT $1::timestamptz + n * $2::interval AS asked, (20 + (hashint8(n) & 511))::bigint AS used) AS made,
     generate_series(1, CASE WHEN n % 20 = 0 THEN 2 ELSE 1 END) AS attempt
