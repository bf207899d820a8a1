"""The port of a server: the standard one; when that is taken, the last one; else any free one."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

NAME = "ports.json"
ANY_FREE_TRIES = 5


class Ports:
    """The ports of a data directory; remembered, so that a second mesh on the machine keeps its addresses."""

    def __init__(self, data_dir: Path) -> None:
        self._file = data_dir / NAME

    def candidates(self, server: str, standard: int) -> Iterator[int]:
        """Ports that are free now, the best first. Another process may take one first: then try the next."""
        for port in (standard, self._remembered().get(server)):
            if port and is_free(port):
                yield port
        for _ in range(ANY_FREE_TRIES):
            yield any_free()

    def remember(self, server: str, port: int) -> None:
        self._file.write_text(json.dumps({**self._remembered(), server: port}), encoding="utf-8")

    def _remembered(self) -> dict[str, int]:
        with suppress(OSError, ValueError):
            return {str(server): int(port) for server, port in json.loads(self._file.read_bytes()).items()}
        return {}


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections don't count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def any_free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
