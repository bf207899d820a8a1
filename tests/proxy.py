"""A TCP proxy that misbehaves when told to: partitions, resets, slow lines, cut streams, and no root needed.

It stands on 127.0.0.1 in front of a NATS server or a provider; connect to `proxy.port` instead. What passes is
not looked at. A partition swallows bytes and lets neither a close nor a reset through, so each side sees nothing
but silence. A stream with a hole in it cannot go on, so `heal` resets the connections that lost bytes (as a
firewall would that has forgotten them); one that was idle all the while lives on.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Literal, Self

CHUNK = 64 << 10
SLICES_PER_SECOND = 20
"""How finely a limited rate is spread over time."""

Direction = Literal["both", "to_server", "to_client"]


class Way:
    """One direction of all connections. `delay` is in seconds, `rate` in bytes per second; set them at any time."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.rate: float | None = None
        self.passed = 0
        """Bytes that came through, of all connections."""
        self._cut_at: int | None = None
        self._light = asyncio.Event()
        self._light.set()

    def cut_after(self, count: int) -> None:
        """Resets every connection once `count` more bytes have come through. Happens once."""
        self._cut_at = self.passed + count

    @property
    def dark(self) -> bool:
        return not self._light.is_set()

    def darken(self) -> None:
        self._light.clear()

    def lighten(self) -> None:
        self._light.set()

    async def light(self) -> None:
        """Returns when bytes may pass again."""
        await self._light.wait()

    def most(self) -> int:
        """How many bytes to pass on at once."""
        allowed = CHUNK if self.rate is None else max(1, int(self.rate / SLICES_PER_SECOND))
        return allowed if self._cut_at is None else max(1, min(allowed, self._cut_at - self.passed))

    def take(self, count: int) -> bool:
        """Counts bytes that came through; True when this was the place to cut."""
        self.passed += count
        if self._cut_at is None or self.passed < self._cut_at:
            return False
        self._cut_at = None
        return True


class Proxy:
    """`async with Proxy(4222) as proxy:` … `proxy.port`, `proxy.blackhole()`, `await proxy.heal()`."""

    def __init__(self, target: int, host: str = "127.0.0.1", *, listen: str = "127.0.0.1") -> None:
        """`target` is the port of the server behind it, on `host`; it stands on `listen`."""
        self.host, self.target, self.address = host, target, listen
        self.port = 0
        self.to_server = Way()
        self.to_client = Way()
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        return len(self._links)

    def blackhole(self, direction: Direction = "both") -> None:
        """A partition: bytes are swallowed, connections stay open, new ones are taken and hear nothing."""
        for way in self._ways(direction):
            way.darken()

    async def heal(self) -> None:
        """Ends `blackhole` and `refuse`. Connections that lost bytes are reset; delay and rate stay as they are."""
        for way in self._ways("both"):
            way.lighten()
        for link in list(self._links):
            if link.holed:
                link.abort()
        if self._listener is None:
            await self._listen()

    def reset(self) -> None:
        """Ends every connection with a TCP reset, on both sides. New ones are welcome."""
        for link in list(self._links):
            link.abort()

    def refuse(self) -> None:
        """Refuses new connections, as if nobody listened; those that are open go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _ways(self, direction: Direction) -> list[Way]:
        chosen = {"both": [self.to_server, self.to_client], "to_server": [self.to_server]}
        return chosen.get(direction, [self.to_client])

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._connected, self.address, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            from_server, to_server = await asyncio.open_connection(self.host, self.target)
            link.writers.append(to_server)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass(link, self.to_server, reader, to_server))
                ways.create_task(self._pass(link, self.to_client, from_server, writer))
        except* OSError:
            pass  # one side is gone, so the other shall be
        finally:
            link.abort()
            self._links.discard(link)

    async def _pass(self, link: "_Link", way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Everything that comes from one side, until it closes; then says so to the other."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        clock = asyncio.get_running_loop().time
        reading = asyncio.get_running_loop().create_task(_read(source, line))
        try:
            while True:
                came, data = await line.get()
                await asyncio.sleep(max(0.0, came + way.delay - clock()))
                if not data:
                    break
                await self._send(link, way, data, sink)
        except BaseException:
            reading.cancel()
            raise
        await way.light()  # neither a close nor a reset crosses a partition
        if (error := await reading) is not None:
            raise error
        if not sink.is_closing():
            sink.write_eof()

    async def _send(self, link: "_Link", way: Way, data: bytes, sink: asyncio.StreamWriter) -> None:
        while data:
            if way.dark:
                link.holed = True
                return
            part, data = data[: way.most()], data[way.most() :]
            sink.write(part)
            await sink.drain()
            if way.take(len(part)):
                self.reset()
                return
            if way.rate is not None:
                await asyncio.sleep(len(part) / way.rate)


class _Link:
    """One connection: the client's side and, when it is made, the server's."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.holed = False
        """Bytes of it were swallowed."""

    def abort(self) -> None:
        for writer in self.writers:
            with suppress(OSError):
                connection: socket.socket = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


async def _read(source: asyncio.StreamReader, line: "asyncio.Queue[tuple[float, bytes]]") -> OSError | None:
    """Puts what comes on the line, each piece with the time of its arrival. Ends with an empty piece, and says why."""
    clock = asyncio.get_running_loop().time
    try:
        while data := await source.read(CHUNK):
            await line.put((clock(), data))
    except OSError as error:
        await line.put((clock(), b""))
        return error
    await line.put((clock(), b""))
    return None
