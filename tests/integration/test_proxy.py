"""The proxy that tests and benchmarks use for partitions does what it says."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bus import Bus, BusError, BusSettings
from tests.proxy import Proxy
from tests.servers import NatsServer
from tests.support import eventually

BIG = bytes(range(256)) * 4096


class Line:
    """A client's connection through the proxy to a server that says everything back."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def hear(self, count: int = 1 << 20) -> bytes:
        """So many bytes, or fewer when the other side closes. Raises `ConnectionResetError`."""
        heard = b""
        while len(heard) < count and (data := await self._loop.sock_recv(self._socket, count - len(heard))):
            heard += data
        return heard

    async def says_back(self, data: bytes) -> bool:
        await self.send(data)
        return await self.hear(len(data)) == data

    async def is_silent(self) -> bool:
        """Nothing comes, not even a close."""
        try:
            async with asyncio.timeout(0.1):
                await self.hear(1)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


class Echo:
    """A server that says everything back, and a proxy in front of it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.heard = bytearray()
        """What got to the server."""
        self.open = 0

    async def line(self) -> Line:
        connection = socket.socket()
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.proxy.port))
        except OSError:
            connection.close()
            raise
        return Line(connection)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while data := await reader.read(65536):
                self.heard += data
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with echoing() as running:
        yield running


@asynccontextmanager
async def echoing() -> AsyncIterator[Echo]:
    proxy = Proxy(0)
    running = Echo(proxy)
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0)
    proxy.target = server.sockets[0].getsockname()[1]
    async with proxy, server:
        yield running


async def test_it_passes_everything_both_ways(echo: Echo) -> None:
    line = await echo.line()
    sent, heard = await asyncio.gather(line.send(BIG), line.hear(len(BIG)))
    assert sent is None
    assert heard == BIG
    assert echo.proxy.to_server.passed == echo.proxy.to_client.passed == len(BIG)
    line.close()
    await eventually(lambda: not echo.open and not echo.proxy.connections)


async def test_a_partition_is_silence_and_a_connection_that_lost_bytes_is_reset_when_it_heals(echo: Echo) -> None:
    busy, idle = await echo.line(), await echo.line()
    assert await busy.says_back(b"before") and await idle.says_back(b"before")
    echo.proxy.blackhole()
    await busy.send(b"lost")
    assert await busy.is_silent()
    late = await echo.line()
    assert await late.is_silent()
    assert bytes(echo.heard) == b"before" * 2
    await echo.proxy.heal()
    with pytest.raises(ConnectionResetError):
        await busy.hear()
    assert await idle.says_back(b"after")
    assert await late.says_back(b"after")
    for line in (busy, idle, late):
        line.close()


async def test_a_hole_in_one_direction_lets_the_other_pass(echo: Echo) -> None:
    line = await echo.line()
    echo.proxy.blackhole("to_client")
    await line.send(b"hello")
    await eventually(lambda: bytes(echo.heard) == b"hello")
    assert await line.is_silent()
    line.close()


async def test_a_close_does_not_cross_a_partition(echo: Echo) -> None:
    line = await echo.line()
    assert await line.says_back(b"hello")
    echo.proxy.blackhole()
    line.close()
    await asyncio.sleep(0.1)  # nothing else would tell: whatever came later crosses the partition no more than this
    assert echo.open == 1
    await echo.proxy.heal()
    await eventually(lambda: not echo.open)


async def test_a_reset_ends_connections_at_both_sides_and_new_ones_are_welcome(echo: Echo) -> None:
    line = await echo.line()
    assert await line.says_back(b"hello")
    echo.proxy.reset()
    with pytest.raises(ConnectionResetError):
        await line.hear()
    await eventually(lambda: not echo.open)
    line.close()
    line = await echo.line()
    assert await line.says_back(b"again")
    line.close()


async def test_refusing_keeps_open_connections_and_ends_when_healed(echo: Echo) -> None:
    line = await echo.line()
    echo.proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await echo.line()
    assert await line.says_back(b"still here")
    await echo.proxy.heal()
    other = await echo.line()
    assert await other.says_back(b"welcome back")
    for one in (line, other):
        one.close()


async def test_a_dead_server_behind_it_looks_like_a_reset() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with Proxy(nobody.getsockname()[1]) as proxy:
            line = await Echo(proxy).line()
            with pytest.raises(ConnectionResetError):
                await line.hear()
            line.close()


async def test_delay_and_rate_hold_bytes_back(echo: Echo) -> None:
    clock = asyncio.get_running_loop().time
    line = await echo.line()
    echo.proxy.to_client.delay = 0.1
    start = clock()
    assert await line.says_back(b"hello")
    assert clock() - start >= 0.09  # a timer may be a little early
    echo.proxy.to_client.delay = 0.0
    echo.proxy.to_client.rate = 5_000
    start = clock()
    assert await line.says_back(bytes(1_000))
    assert clock() - start >= 0.14  # the last slice's pause comes after it
    line.close()


async def test_a_stream_is_cut_after_exactly_so_many_bytes(echo: Echo) -> None:
    line, other = await echo.line(), await echo.line()
    assert await line.says_back(b"hello")
    echo.proxy.to_client.cut_after(700)
    await line.send(bytes(2_000))
    assert len(await line.hear(700)) == 700
    with pytest.raises(ConnectionResetError):
        await line.hear()
    with pytest.raises(ConnectionResetError):
        await other.hear()
    again = await echo.line()
    assert await again.says_back(BIG[:2_000])
    for one in (line, other, again):
        one.close()


async def test_a_bus_comes_back_after_a_partition(nats: NatsServer) -> None:
    async with Proxy(nats.port) as proxy:
        bus = await Bus.connect("test", BusSettings(servers=(f"nats://127.0.0.1:{proxy.port}",)), patience=20)
        proxy.blackhole()
        with pytest.raises(BusError):
            await bus.flush(2)
        await proxy.heal()

        async def well() -> bool:
            try:
                await bus.flush(2)
            except BusError:
                return False
            return True

        await eventually(well, timeout=40)
        await bus.close()
