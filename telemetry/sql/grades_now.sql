-- The grade of each model at each worker, of those who were here in the last week, and when it was benched before.
SELECT DISTINCT ON (g.model_id, g.worker_id)
       g.model_id,
       g.worker_id,
       g.grade,
       g.previous,
       g.reasons,
       g.by_hand,
       extract(epoch FROM now() - g.created_at)::double precision AS seconds,
       extract(epoch FROM now() - benched.last)::double precision AS benched_ago,
       extract(epoch FROM now() - benched.before)::double precision AS benched_before_ago,
       proven.since AS proven_since
FROM grades g
LEFT JOIN (
    SELECT model_id,
           worker_id,
           (array_agg(created_at ORDER BY created_at DESC))[1] AS last,
           (array_agg(created_at ORDER BY created_at DESC))[2] AS before
    FROM grades
    WHERE grade = 'benched' AND created_at > now() - interval '7 days'
    GROUP BY model_id, worker_id
) AS benched USING (model_id, worker_id)
CROSS JOIN (
    SELECT min(created_at) AS since
    FROM grades
    WHERE grade IN ('regular', 'senior') AND NOT by_hand AND created_at > now() - interval '7 days'
) AS proven
WHERE g.created_at > now() - interval '7 days' OR g.by_hand
ORDER BY g.model_id, g.worker_id, g.created_at DESC
