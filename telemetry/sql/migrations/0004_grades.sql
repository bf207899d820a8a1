-- Grades that somebody gave by hand stay until he takes them back.
ALTER TABLE grades ADD COLUMN by_hand boolean NOT NULL DEFAULT false;
CREATE INDEX grades_latest ON grades (model_id, worker_id, created_at DESC);
CREATE INDEX feedback_task_id ON feedback (task_id);
