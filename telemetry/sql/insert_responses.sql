-- An existing row stays as it is, unless its unknown cost has become known.
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
