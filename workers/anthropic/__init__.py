"""Anthropic's models."""

UNASKED = ("no key", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
"""Why this backend does not run unless it is asked for, and the variables that ask for it; read without importing its
SDK.
"""
