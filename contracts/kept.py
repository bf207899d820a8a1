"""What JetStream keeps for the mesh, in words: `nats stream ls`, `nats kv ls` and dashboards show them."""

from contracts import subjects as s

ABOUT = {
    s.TELEMETRY_STREAM: "Bullpen: what happened, until telemetry has it in the books",
    s.JOBS_STREAM: "Bullpen: submitted jobs that have no result yet",
    s.RESULTS_STREAM: "Bullpen: results of jobs",
    f"KV_{s.KEYS_BUCKET}": "Bullpen: API keys of the gateway, by the digest of their secrets",
    f"KV_{s.GRADES_BUCKET}": "Bullpen: grades of models, which telemetry gives and Managers heed",
    "KV_bullpen_answers": "Bullpen: answers by idempotency key, so that a request that is repeated is answered again",
    "KV_bullpen_budgets": "Bullpen: what of each budget is spent or leased to a Manager",
    "KV_bullpen_jobs": "Bullpen: how often each job was tried",
    "KV_bullpen_limits": "Bullpen: what the workers of one account have used of its rate limits",
}
"""By stream; a bucket is the stream `KV_<bucket>`."""

READERS = {
    (s.TELEMETRY_STREAM, "books"): "Bullpen: telemetry, which writes the books",
    (s.JOBS_STREAM, s.JOBS_CONSUMER): "Bullpen: Managers, which do the jobs",
}
"""By stream and durable consumer."""
