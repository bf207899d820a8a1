"""OpenAI's chat API, and every server that speaks it: vLLM, llama.cpp, OpenRouter, Groq and the like."""

UNASKED = ("no key and no server", "OPENAI_API_KEY", "OPENAI_BASE_URL")
"""Why it does not run where nobody asks for it, and the variables of which one asks: told without its SDK."""
