"""A running Ollama, on this machine or another."""
