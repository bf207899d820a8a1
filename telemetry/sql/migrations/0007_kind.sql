-- What was asked for: an answer (`infer`), or vectors (`embed`).
ALTER TABLE responses ADD COLUMN kind text NOT NULL DEFAULT 'infer';
ALTER TABLE attempts ADD COLUMN kind text NOT NULL DEFAULT 'infer';
COMMENT ON COLUMN responses.kind IS 'infer (an answer), or embed (vectors)';
COMMENT ON COLUMN attempts.kind IS 'infer (an answer), or embed (vectors)';
