"""Google's Gemini models."""

UNASKED = ("no key", "GEMINI_API_KEY", "GEMINI_BASE_URL")
"""Why it does not run where nobody asks for it, and the variables of which one asks: told without its SDK."""
