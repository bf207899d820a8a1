"""OpenAI's chat API, and every server that speaks it: vLLM, llama.cpp, OpenRouter, Groq and the like."""

UNASKED = ("no key and no server", "OPENAI_API_KEY", "OPENAI_BASE_URL")
"""Why this backend does not run unless it is asked for, and the variables that ask for it; read without importing its
SDK.
"""
