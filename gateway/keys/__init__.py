"""Who asks: the API key in a request's headers, and what its owner may."""

from gateway.keys.callers import Caller, Callers
from gateway.keys.ring import KeyRing
from gateway.keys.shared_use import SharedUse

__all__ = ["Caller", "Callers", "KeyRing", "SharedUse"]
