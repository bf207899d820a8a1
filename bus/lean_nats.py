"""Imports nats-py without the packages that only its web sockets need.

aiohttp takes a third of a second of processor time, more than all the rest of a role's start. `allow_web_sockets` loads
the packages when an address begins with `ws`.
"""

from importlib import import_module

from config.absent import absent

FOR_WEB_SOCKETS = ("aiohttp", "multidict")

with absent(*FOR_WEB_SOCKETS):
    from nats.aio import transport


def allow_web_sockets() -> None:
    """Loads the packages for web sockets. Call it before the first connection to a `ws://` or `wss://` address. Raises
    `ImportError`.
    """
    for name in FOR_WEB_SOCKETS:
        setattr(transport, name, import_module(name))
