-- Figures stay, and so does the tenant, by whom they are added up.
WITH tries AS (
    UPDATE attempts SET error_message = NULL
    WHERE request_id = ANY ($1::uuid[]) AND error_message IS NOT NULL
    RETURNING 1
), judged AS (
    UPDATE feedback SET comment = NULL
    WHERE task_id IN (SELECT unnest($2::text[])) AND comment IS NOT NULL
    RETURNING 1
), asked AS (
    UPDATE responses SET
        prompt = NULL,
        output = NULL,
        error_message = NULL,
        context = '{}',
        metadata = jsonb_strip_nulls(jsonb_build_object('tenant', metadata -> 'tenant')),
        content = 'none'
    WHERE request_id = ANY ($1::uuid[])
    RETURNING 1
)
SELECT (SELECT count(*) FROM asked) AS responses,
       (SELECT count(*) FROM tries) AS attempts,
       (SELECT count(*) FROM judged) AS feedback
