"""A role's status on its own machine: three pages over HTTP at `BULLPEN_STATUS` (`127.0.0.1:8223` in the images).

`/healthz` answers while the event loop runs: a process whose loop stands still does not answer, and needs a restart.
`/readyz` says whether the role serves, and why not; a restart would not help. `/metrics` has the figures in
Prometheus's text form. The pages ask neither NATS nor a database, so a check costs next to nothing, and fails only for
the role's own faults.
"""

import asyncio
import os
import resource
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import chain
from typing import NamedTuple

import structlog

from bus import Tasks
from bus.role_status import Figure, RoleStatus
from config.loader import ConfigError

log = structlog.get_logger(__name__)

VARIABLE = "BULLPEN_STATUS"
REQUEST_WITHIN = 2.0
LONGEST_REQUEST = 8192
MOST_AT_ONCE = 16
"""Connections. Further ones are closed: the pages are for checks and one or two collectors."""
TICK = 0.5
STALLED = 1.0
"""Seconds of a still event loop that are logged."""
STANDS_STILL = 5.0
"""Seconds without a tick after which the loop counts as standing still, though it answers this page."""
REMEMBERED = 60
"""Ticks whose lag is remembered: half a minute."""
STANDARD = "gen_ai_"
"""The prefix of OpenTelemetry's names, which other model servers use too."""
TEXT, METRICS = "text/plain; charset=utf-8", "text/plain; version=0.0.4; charset=utf-8"


class Page(NamedTuple):
    code: int
    body: str
    content_type: str = TEXT


class LoopWatch:
    """Measures how late the event loop is: a tick that is due every half second comes later when the loop is
    blocked.
    """

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self._ticked = self._now()
        self._lags: deque[float] = deque(maxlen=REMEMBERED)
        self.stalls = 0

    @property
    def silent(self) -> float:
        """Seconds since the last tick."""
        return self._now() - self._ticked

    @property
    def worst(self) -> float:
        """Seconds: the largest lag of the last half minute, including the present one."""
        return max(0.0, self.silent - TICK, *self._lags)

    async def keep(self) -> None:
        """Ticks until cancelled."""
        while True:
            self.ticked(self._now())
            await asyncio.sleep(TICK)

    def ticked(self, now: float) -> None:
        lag, self._ticked = max(0.0, now - self._ticked - TICK), now
        self._lags.append(lag)
        if lag >= STALLED:
            self.stalls += 1
            log.warning("loop_stood_still", seconds=round(lag, 1), effect="nothing was served meanwhile")


class StatusServer:
    """Serves the pages from the present `status`."""

    def __init__(self, role: str, status: RoleStatus, watch: LoopWatch) -> None:
        self._role = role
        self._status = status
        self._watch = watch
        self._open: set[asyncio.StreamWriter] = set()

    def page(self, path: str) -> Page:
        """The page at a path."""
        if path == "/healthz":
            return self._health()
        if path == "/readyz":
            why_not = self._status.why_not()
            return Page(503, f"{self._role}: {why_not}\n") if why_not else Page(200, f"{self._role}: serves\n")
        if path == "/metrics":
            return Page(200, metrics_text(self._figures(), {"role": self._role}), METRICS)
        return Page(404, "there are /healthz, /readyz and /metrics\n")

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request, then closes the connection."""
        self._open.add(writer)
        try:
            if len(self._open) <= MOST_AT_ONCE:
                async with asyncio.timeout(REQUEST_WITHIN):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._reply(head))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked is gone, or speaks something else
        finally:
            self._open.discard(writer)
            writer.close()

    def close(self) -> None:
        """Ends the connections that are open."""
        for writer in self._open:
            writer.transport.abort()

    def _reply(self, head: bytes) -> bytes:
        method, path, *_ = [*head.split(b"\r\n", 1)[0].decode("latin-1").split(" "), "", ""]
        page = self._page_or_error(path.partition("?")[0]) if method in ("GET", "HEAD") else Page(405, "GET only\n")
        body = page.body.encode()
        lines = (
            f"HTTP/1.1 {page.code} {'OK' if page.code == 200 else 'Not OK'}",
            f"Content-Type: {page.content_type}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "\r\n".join((*lines, "", "")).encode() + (b"" if method == "HEAD" else body)

    def _page_or_error(self, path: str) -> Page:
        try:
            return self.page(path)
        except Exception:
            log.exception("status_not_told", path=path)
            return Page(500, f"{self._role}: its status cannot be told, see its log\n")

    def _health(self) -> Page:
        if self._watch.silent > STANDS_STILL:
            return Page(503, f"{self._role}: the loop has not turned for {self._watch.silent:.1f} s\n")
        return Page(200, f"{self._role}: alive, the loop was at most {self._watch.worst:.3f} s late\n")

    def _figures(self) -> Iterator[Figure]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield Figure("up", "The process answers", 1)
        yield Figure("ready", "1: the role serves", 0 if self._status.why_not() else 1)
        yield Figure("loop_lag_seconds", "How late the event loop was at most, in half a minute", self._watch.worst)
        yield Figure("loop_stalls_total", "How often it stood still for a second", self._watch.stalls, "counter")
        yield Figure("cpu_seconds_total", "Processor time", usage.ru_utime + usage.ru_stime, "counter")
        if memory := _resident_bytes():
            yield Figure("resident_memory_bytes", "Memory in use", memory)
        yield from self._status.figures()


@asynccontextmanager
async def status_served(
    role: str, status: RoleStatus, environ: Mapping[str, str] | None = None
) -> AsyncIterator[str | None]:
    """Serves the status at `BULLPEN_STATUS` until the end of the block; yields the address, or None if it is served
    nowhere.

    Raises `ConfigError` when the variable is no address. An address that is in use is logged, and stops no role.
    """
    tasks = Tasks(f"{role}:status")
    watch = LoopWatch()
    status.lag = lambda: watch.worst
    tasks.start(watch.keep(), "loop-watch")
    try:
        async with _listening(StatusServer(role, status, watch), environ) as where:
            yield where
    finally:
        await tasks.cancel()


@asynccontextmanager
async def _listening(shown: StatusServer, environ: Mapping[str, str] | None) -> AsyncIterator[str | None]:
    wanted = address(os.environ if environ is None else environ)
    if wanted is None:
        yield None
        return
    try:
        server = await asyncio.start_server(shown.answer, *wanted, limit=LONGEST_REQUEST)
    except OSError as error:
        log.error("status_not_shown", reason=str(error), cure=f"set {VARIABLE} to another address, or to nothing")
        yield None
        return
    try:
        host, port, *_ = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()
        shown.close()


def address(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Host and port of `BULLPEN_STATUS`; None: it is empty. Raises `ConfigError`."""
    text = environ.get(VARIABLE, "").strip()
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{VARIABLE}: {text!r} is no address: write HOST:PORT, such as 127.0.0.1:8223")
    return host.strip("[]"), int(port)


def nth_address(environ: Mapping[str, str], number: int) -> dict[str, str]:
    """`BULLPEN_STATUS` for the role with this number (from 0) on one machine: the ports follow each other.

    Empty when the variable is. Raises `ConfigError`.
    """
    first = address(environ)
    if first is None:
        return {}
    host, port = first[0], first[1] and first[1] + number  # port 0 stays: the system chooses one for each
    return {VARIABLE: f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}


def metrics_text(figures: Iterable[Figure], labels: Mapping[str, str]) -> str:
    """The figures in Prometheus's form: those of one name stand together."""
    families: dict[str, list[str]] = {}
    for figure in figures:
        name = figure.name if figure.name.startswith(STANDARD) else f"bullpen_{figure.name}"
        lines = families.get(name)
        if lines is None:
            lines = families[name] = [f"# HELP {name} {figure.help}", f"# TYPE {name} {figure.kind}"]
        told = ",".join(f'{label}="{_escaped(value)}"' for label, value in (*labels.items(), *figure.labels))
        lines.append(f"{name}{figure.part}{{{told}}} {_number(figure.value)}")
    return "\n".join((*chain.from_iterable(families.values()), ""))


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _resident_bytes() -> int:
    """This process's memory in bytes; 0: the system does not report it."""
    try:
        with open("/proc/self/statm", encoding="ascii") as told:  # noqa: PTH123 — read on every scrape
            return int(told.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0
