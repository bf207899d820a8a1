"""Ollama's SDK. It makes a client as soon as it is imported, and fails at variables that are about other servers."""

from workers.base.provider.proxies import unread

with unread():
    import ollama

__all__ = ["ollama"]
