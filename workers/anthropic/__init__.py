"""Anthropic's models."""

UNASKED = ("no key", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
"""Why it does not run where nobody asks for it, and the variables of which one asks: told without its SDK."""
