"""Who asks: the API key in a request's headers, and what its owner may."""

from gateway.keys.callers import Caller, Callers

__all__ = ["Caller", "Callers"]
