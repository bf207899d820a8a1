SELECT model_id, answers, attempts, error_rate, confidence, feedback, judgements, p50_ms, p95_ms, cost_usd, unpriced,
       cost_per_answer, last_answer
FROM model_scorecard
ORDER BY answers DESC, model_id
