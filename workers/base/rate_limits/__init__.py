"""Requests and tokens per minute, ours and those that a provider tells."""
