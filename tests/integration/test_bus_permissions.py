"""What the server does not let us say or hear is told, at once and by its cure."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bus import Bus, BusSettings, Denied, NoResponders
from tests.servers import PlainNats
from tests.support import eventually

MAY_NOT = "authorization {{users: [{{user: u, password: p, permissions: {{{}}}}}]}}"


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Callable[[str], Awaitable[Bus]]]:
    """Connects to a server that gives us these permissions."""
    running: list[tuple[PlainNats, Bus]] = []

    async def connect(permissions: str) -> Bus:
        server = PlainNats(tmp_path, MAY_NOT.format(permissions))
        await server.start()
        bus = await Bus.connect("test", BusSettings(servers=(server.url,), user="u", password="p"), watchdog=False)
        running.append((server, bus))
        return bus

    yield connect
    for server, bus in running:
        await bus.close()
        server.kill()


async def test_a_request_that_we_may_not_make_fails_at_once(strict: Callable[[str], Awaitable[Bus]]) -> None:
    bus = await strict("publish: {deny: Secret}")
    with pytest.raises(Denied, match="may not publish on secret: check NATS_USER"):
        await bus.request("Secret", b"", timeout=100)
    with pytest.raises(NoResponders):
        await bus.request("other", b"", timeout=100)


async def test_who_may_not_hear_answers_is_told_so(strict: Callable[[str], Awaitable[Bus]]) -> None:
    bus = await strict('subscribe: {deny: "_INBOX.>"}')
    for _ in range(2):
        with pytest.raises(Denied, match=r"may not hear answers on _inbox.* check NATS_INBOX_PREFIX"):
            await bus.request("other", b"", timeout=60)


async def test_permissions_that_changed_count_after_the_next_connection(tmp_path: Path) -> None:
    server = PlainNats(tmp_path, MAY_NOT.format('subscribe: {deny: "_INBOX.>"}'))
    await server.start()
    bus = await Bus.connect("test", BusSettings(servers=(server.url,), user="u", password="p"), watchdog=False)
    try:
        with pytest.raises(Denied):
            await bus.request("other", b"", timeout=60)
        server.kill()
        server.config = MAY_NOT.format("publish: {deny: secret}")
        await server.start()
        await eventually(lambda: bus.is_connected and bus.reconnects)
        with pytest.raises(NoResponders):
            await bus.request("other", b"", timeout=60)
    finally:
        await bus.close()
        server.kill()


async def test_what_we_may_not_say_is_told_in_the_log(tmp_path: Path) -> None:
    server = PlainNats(
        tmp_path, "authorization {users: [{user: u, password: p, permissions: {publish: {deny: secret}}}]}"
    )
    await server.start()
    try:
        bus = await Bus.connect("test", BusSettings(servers=(server.url,), user="u", password="p"))
        with capture_logs() as logs:
            await bus.publish("secret", b"")
            await eventually(lambda: [entry for entry in logs if entry["event"] == "bus_denied"])
        assert "secret" in next(entry["error"] for entry in logs if entry["event"] == "bus_denied")
        assert not bus.lost.is_set()
        await bus.close()
    finally:
        server.kill()
