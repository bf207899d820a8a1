"""Google's Gemini models."""

UNASKED = ("no key", "GEMINI_API_KEY", "GEMINI_BASE_URL")
"""Why this backend does not run unless it is asked for, and the variables that ask for it; read without importing its
SDK.
"""
