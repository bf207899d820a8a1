-- Requests $3 to $4, the first one at $1, one every $2. Every 50th failed, every 40th has no known price.
INSERT INTO responses (
    request_id, task_id, created_at, status, error_code, model_id, backend, worker_id, manager_id, policy, priority,
    prompt_tokens, completion_tokens, cached_tokens, tokens_used, cost_usd, price, duration_ms, ttft_ms, queue_ms,
    confidence, confidence_source, finish_reason, attempts, streamed, resumed, replayed, simulated, prompt, output,
    context, metadata
)
SELECT (left(uuidv7_floor(asked)::text, 14) || '7' || right(md5(n::text), 3) || '-8' || right(md5('a' || n), 3) || '-'
           || right(md5('b' || n), 12))::uuid,
       'task-' || n, asked,
       CASE WHEN n % 50 = 0 THEN 'error' ELSE 'ok' END, CASE WHEN n % 50 = 0 THEN 'upstream_error' END,
       'model-' || n % 13, 'openai', 'worker-' || n % 7, 'manager-1', 'balanced', 'interactive',
       used, 2 * used, used / 3, 3 * used, CASE WHEN n % 40 <> 0 THEN used * 0.00000135 END,
       '{"input_per_mtok": "0.15", "output_per_mtok": "0.60", "currency": "USD"}',
       used * 10.5, used * 1.25, 0.5, 0.9, 'logprobs', 'stop', 1, false, false, false, false,
       left(words, 300), right(words, 800), '{}', jsonb_build_object('tenant', 'tenant-' || n % 31)
FROM generate_series($3::bigint, $4::bigint) AS n,
     LATERAL (SELECT $1::timestamptz + n * $2::interval AS asked, (20 + (hashint8(n) & 511))::bigint AS used,
                     repeat(md5(n::text) || md5('c' || n) || ' ', 17) AS words) AS made
