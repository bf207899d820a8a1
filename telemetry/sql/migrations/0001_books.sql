-- The books: one row per request, one per attempt, and what befell the workers.
-- Times are timestamptz, money is numeric (US dollars), free-form is jsonb.

CREATE TABLE responses (
    request_id        uuid PRIMARY KEY,
    task_id           text NOT NULL,
    created_at        timestamptz NOT NULL,
    stored_at         timestamptz NOT NULL DEFAULT now(),
    status            text NOT NULL CHECK (status IN ('ok', 'error')),
    error_code        text,
    error_message     text,
    model_id          text,
    backend           text,
    worker_id         text,
    manager_id        text,
    policy            text NOT NULL,
    priority          text NOT NULL,
    prompt_tokens     bigint,
    completion_tokens bigint,
    tokens_used       bigint,
    cost_usd          numeric,
    price             jsonb,
    duration_ms       double precision NOT NULL,
    ttft_ms           double precision,
    queue_ms          double precision,
    confidence        double precision,
    confidence_source text,
    finish_reason     text,
    attempts          integer NOT NULL,
    streamed          boolean NOT NULL,
    resumed           boolean NOT NULL,
    replayed          boolean NOT NULL,
    simulated         boolean NOT NULL,
    prompt            text,
    output            text,
    context           jsonb NOT NULL,
    metadata          jsonb NOT NULL
);
COMMENT ON COLUMN responses.cost_usd IS 'All attempts together. NULL: the price is unknown, which is not zero.';
CREATE INDEX responses_created_at ON responses (created_at DESC);
CREATE INDEX responses_task_id ON responses (task_id);
CREATE INDEX responses_model ON responses (model_id, created_at DESC);
CREATE INDEX responses_failed ON responses (created_at DESC) WHERE status = 'error';

CREATE TABLE attempts (
    request_id        uuid NOT NULL,
    attempt           integer NOT NULL,
    task_id           text NOT NULL,
    created_at        timestamptz NOT NULL,
    stored_at         timestamptz NOT NULL DEFAULT now(),
    worker_id         text NOT NULL,
    backend           text NOT NULL,
    model_id          text NOT NULL,
    epoch             text,
    outcome           text NOT NULL CHECK (outcome IN (
        'ok', 'failed', 'refused', 'cancelled', 'uncertain', 'late_discarded', 'hedged_loser', 'truncated')),
    error_code        text,
    error_message     text,
    duration_ms       double precision NOT NULL,
    ttft_ms           double precision,
    queue_ms          double precision,
    prompt_tokens     bigint,
    completion_tokens bigint,
    cost_usd          numeric,
    confidence        double precision,
    simulated         boolean NOT NULL,
    PRIMARY KEY (request_id, attempt)
);
CREATE INDEX attempts_created_at ON attempts (created_at DESC);

CREATE TABLE feedback (
    feedback_id uuid PRIMARY KEY,
    task_id     text NOT NULL,
    created_at  timestamptz NOT NULL,
    score       double precision NOT NULL CHECK (score BETWEEN 0 AND 1),
    source      text,
    comment     text
);

CREATE TABLE worker_events (
    event_id   uuid PRIMARY KEY,
    created_at timestamptz NOT NULL,
    worker_id  text NOT NULL,
    backend    text NOT NULL,
    epoch      text NOT NULL,
    state      text NOT NULL,
    previous   text,
    reason     text NOT NULL,
    detail     jsonb NOT NULL
);

CREATE TABLE grades (
    grade_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    model_id   text NOT NULL,
    worker_id  text NOT NULL,
    grade      text NOT NULL CHECK (grade IN ('probation', 'regular', 'senior', 'benched')),
    previous   text,
    reasons    jsonb NOT NULL DEFAULT '[]'
);

CREATE TABLE dead_letters (
    stream_seq bigint NOT NULL,
    digest     bytea NOT NULL GENERATED ALWAYS AS (sha256(body)) STORED,
    created_at timestamptz NOT NULL DEFAULT now(),
    subject    text NOT NULL,
    reason     text NOT NULL,
    body       bytea NOT NULL,
    PRIMARY KEY (stream_seq, digest)
);
COMMENT ON TABLE dead_letters IS 'Events that could not be booked, as they came. Nothing is ever dropped.';
COMMENT ON COLUMN dead_letters.digest IS 'Part of the key because a stream that is made anew counts from 1 again.';
