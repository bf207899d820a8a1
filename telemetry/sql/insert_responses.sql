-- A row that is there stays as it is, but for a cost that was unknown until a late word about an attempt told it.
INSERT INTO responses (
    {columns}
)
SELECT
    {columns}
FROM (
    SELECT DISTINCT ON (request_id) *
    FROM json_populate_recordset(NULL::responses, $1)
    ORDER BY request_id, cost_usd IS NULL
) AS known
ON CONFLICT (request_id) DO UPDATE SET
    cost_usd = excluded.cost_usd
WHERE responses.cost_usd IS NULL AND excluded.cost_usd IS NOT NULL
