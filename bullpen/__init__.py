"""The composition root: command line, embedded servers, supervision, diagnosis. May see every role, on purpose.

    from bullpen import Client

    async with Client.connect() as mesh:
        answer = await mesh.ask("What is the capital of France?")

`Client` and what it raises are the public Python API; see `client/`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client import Bullpen as Client
    from client import BullpenError, BusError, BusUnreachable, Options, RequestFailed

__all__ = ["BullpenError", "BusError", "BusUnreachable", "Client", "Options", "RequestFailed"]
_HOUSE = Path(__file__).resolve().parents[1]
_PACKAGES = ("client", "contracts", "bus", "config")


def __getattr__(name: str) -> Any:
    """Imports the client when it is asked for: the command line's help does without.

    Raises `ImportError` where a module of the caller's bears the name of one of our packages.
    """
    if name not in __all__:
        raise AttributeError(f"module 'bullpen' has no attribute {name!r}")
    _refuse_namesakes()
    import client  # noqa: PLC0415 — see above

    return getattr(client, "Bullpen" if name == "Client" else name)


def _refuse_namesakes() -> None:
    """A file `client.py` beside the caller's program is found before our package of that name."""
    from importlib.util import find_spec  # noqa: PLC0415 — see above

    for package in _PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None or not Path(spec.origin).resolve().is_relative_to(_HOUSE):
            there = "something" if spec is None or spec.origin is None else spec.origin
            raise ImportError(
                f"{there} hides Bullpen's own package {package!r}: rename it, or run your program with `python -P`"
            )
