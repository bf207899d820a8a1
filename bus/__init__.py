"""HOW messages travel: the only importer of nats-py."""
