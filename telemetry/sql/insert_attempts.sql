-- A row that is there stays as it is, but for an attempt that was given up on and turned out to have been computed after
-- all, or that told late what it had used.
INSERT INTO attempts (
    {columns}
)
SELECT
    {columns}
FROM (
    SELECT DISTINCT ON (request_id, attempt) *
    FROM json_populate_recordset(NULL::attempts, $1)
    ORDER BY request_id, attempt, (outcome IN ('late_discarded', 'hedged_loser') AND confidence IS NOT NULL) DESC,
        cost_usd IS NULL
) AS newest
ON CONFLICT (request_id, attempt) DO UPDATE SET {known_later}
WHERE (
        attempts.confidence IS NULL
        AND attempts.outcome IN ('uncertain', 'cancelled', 'failed', 'refused', 'hedged_loser')
        AND excluded.outcome IN ('late_discarded', 'hedged_loser')
        AND excluded.confidence IS NOT NULL
    )
    OR (attempts.cost_usd IS NULL AND excluded.cost_usd IS NOT NULL)
