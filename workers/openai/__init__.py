"""OpenAI's chat API, and every server that speaks it: vLLM, llama.cpp, OpenRouter, Groq and the like."""
