"""No model at all: latency, tokens, failures and confidence come from a config and a seed."""
