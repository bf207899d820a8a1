-- An existing row stays as it is, unless the attempt was given up and has been computed after all, or its usage became
-- known late.
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
