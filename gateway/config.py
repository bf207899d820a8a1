"""The gateway's settings, from `gateway/config.yaml` and `BULLPEN_GATEWAY__*`."""

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from config.loader import ConfigModel

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
STANDARD_PORT = 4000
CANNOT_LISTEN = "cannot listen at"
"""The start of the error for an address that is in use."""


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address: write HOST:PORT, such as 127.0.0.1:{STANDARD_PORT}")
    return text


class GatewayConfig(ConfigModel):
    listen: Annotated[str, AfterValidator(_address)] = f"127.0.0.1:{STANDARD_PORT}"
    """`HOST:PORT`. Port 0: any free port."""
    unknown_model: Literal["error", "auto"] = "error"
    """What happens to a request for a model that no worker serves: an error, or the mesh chooses a model."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Models by the names that clients use, which may have `*` and `?`. The first name that matches counts."""
    keys: Literal["auto", "required", "off"] = "auto"
    """Whether callers need an API key. `auto`: as soon as a key exists, and always beyond loopback."""
    origins: tuple[str, ...] = ()
    """Web sites whose pages may ask from a browser, as `https://chat.example.com`; `*`: all. Pages from loopback always
    may.
    """
    body_limit_mb: Annotated[float, Field(gt=0, le=1024)] = 32.0
    headers_within: Seconds = 10.0
    """Seconds in which the head of a request has to arrive, from its first byte on."""
    body_within: Seconds = 60.0
    """Seconds in which the body of a request has to arrive."""
    idle_timeout: Seconds = 75.0
    """Seconds that a connection may stay open without a request."""
    slow_reader_timeout: Seconds = 30.0
    """Seconds after which a client that reads nothing of its answer is cut off."""
    keep_alive_every: Seconds = 10.0
    """Seconds of silence after which a stream gets a keep-alive."""
    deadline: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """Seconds that an answer may take, unless the request has a `deadline_ms`."""
    drain_within: Seconds = 30.0
    """Seconds that answers under way get when the gateway stops."""
    max_connections: Count = 4096
    streams_per_key: Count = 256
    """Streams of one API key that may be open at once."""
    processes: Count = 1
    """Processes that share the port."""
    share_port: bool = False
    """Whether another gateway on this machine may listen at the same address."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen at."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        host = self.address[0]
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def body_limit(self) -> int:
        """The size limit of a body in bytes."""
        return int(self.body_limit_mb * (1 << 20))
