"""Imports Ollama's SDK. It makes a client on import, and fails at variables that are meant for other servers."""

from workers.base.provider.proxies import unread

with unread():
    import ollama

__all__ = ["ollama"]
