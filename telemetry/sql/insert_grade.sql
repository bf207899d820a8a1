INSERT INTO grades (created_at, model_id, worker_id, grade, previous, reasons, by_hand)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7)
