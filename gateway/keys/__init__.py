"""API keys: who sends a request, and what the key's owner may do."""

from gateway.keys.callers import Caller, Callers
from gateway.keys.ring import KeyRing
from gateway.keys.shared_use import SharedUse

__all__ = ["Caller", "Callers", "KeyRing", "SharedUse"]
