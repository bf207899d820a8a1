"""A worker at work: it serves requests, sends heartbeats and obeys control requests. Read `worker` first."""
