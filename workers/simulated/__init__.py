"""No model at all: latency, tokens, failures and confidence drawn from a config, seeded."""
