-- Books as migrations 0001 and 0002 left them: 20,000 requests from March to May 2026, and ten with ids of strangers.
INSERT INTO responses (
    request_id, task_id, created_at, status, model_id, policy, priority, tokens_used, cost_usd, price, duration_ms,
    attempts, streamed, resumed, replayed, simulated, prompt, output, context, metadata
)
SELECT CASE WHEN n > 20000 THEN (CASE WHEN n % 2 = 0 THEN 'ff' ELSE '00' END || right(md5(n::text), 30))::uuid
            ELSE (lpad(to_hex((extract(epoch FROM asked) * 1000)::bigint), 12, '0') || '7' || right(md5(n::text), 19))::uuid
       END,
       'task-' || n % 5000, asked, CASE WHEN n % 50 = 0 THEN 'error' ELSE 'ok' END, 'model-' || n % 7, 'balanced',
       'interactive', n, CASE WHEN n % 40 <> 0 THEN n * 0.000000123456789 END, '{"input_per_mtok": "0.1"}',
       (n * 7919) % 5000, 1, false, false, false, false, 'what is ' || n, 'it is ' || n, '{"kept": true}',
       (ARRAY['{}', '{"tenant": "a"}', '{"tenant": "b"}'])[1 + n % 3]::jsonb
FROM (SELECT n, '2026-03-01Z'::timestamptz + n * interval '5.5 minutes' AS asked FROM generate_series(1, 20010) AS n) AS made;

INSERT INTO attempts (
    request_id, attempt, task_id, created_at, worker_id, backend, model_id, outcome, duration_ms, prompt_tokens,
    completion_tokens, cost_usd, confidence, simulated
)
SELECT request_id, attempt, task_id, created_at, 'w', 'b', model_id,
       CASE WHEN attempt = 1 AND status = 'error' THEN 'failed' ELSE 'ok' END, duration_ms, tokens_used, 2 * tokens_used,
       cost_usd, 0.9, false
FROM responses, generate_series(1, CASE WHEN status = 'error' THEN 2 ELSE 1 END) AS attempt;

INSERT INTO feedback (feedback_id, task_id, created_at, score)
SELECT gen_random_uuid(), 'task-' || n, '2026-04-15Z', 0.25 FROM generate_series(1, 20) AS n;
INSERT INTO worker_events VALUES (gen_random_uuid(), now(), 'w', 'b', 'e', 'ready', NULL, '', '{}');
INSERT INTO grades (model_id, worker_id, grade) VALUES ('model-1', 'w', 'senior');
INSERT INTO dead_letters (stream_seq, subject, reason, body) VALUES (1, 'telemetry.x', 'why', '\x00ff');
