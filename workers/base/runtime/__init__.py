"""A worker at work: requests served, heartbeats sent, orders obeyed. Read `worker` first."""
