"""Requests and tokens per minute: the operator's limits, and those that a provider reports."""
