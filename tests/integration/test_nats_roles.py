"""Who may do what on the NATS server of the containers, probed role by role on a real one."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bullpen.embedded import nats_server
from bullpen.leash import leashed
from bus import Bus, BusSettings, Message, census
from bus.jetstream import PullConsumer, StreamSpec, ensure_stream
from bus.pull import StoredMessage
from client import RequestFailed
from client import jobs as client_jobs
from client.question import Question
from contracts import BullpenError, ErrorCode
from manager.config import JobsConfig
from manager.job import Job, Result
from manager.jobs import Jobs
from tests.servers import free_port
from tests.support import eventually

CONFIG = Path(__file__).resolve().parents[2] / "nats" / "nats.conf"
ROLES = ("client", "worker", "manager", "telemetry", "observer", "admin")
INBOX = {role: f"_INBOX_{role}" for role in ("worker", "manager", "telemetry")}
"""As compose.yaml has it; callers use the usual one."""

MAY_PUBLISH = {
    "client": (
        "infer.auto",
        "infer.local",
        "infer.cancel",
        "infer.feedback",
        "jobs.submit",
        "$SRV.PING",
        "$JS.API.DIRECT.GET.RESULTS",
    ),
    "worker": ("worker.heartbeat", "telemetry.worker", "telemetry.attempt", "result.t1", "_INBOX.abc.1", "$SRV.PING"),
    "manager": (
        *("infer.local.w.w1", "worker.control.w1", "metrics.route", "telemetry.response", "_INBOX_worker.abc.1"),
        *("$SYS.REQ.ACCOUNT.PING.CONNZ", "$JS.ACK.JOBS.managers.1.1.1.1.0"),
    ),
    "telemetry": ("telemetry.feedback", "metrics.mesh", "$JS.ACK.TELEMETRY.books.1.1.1.1.0"),
    "observer": ("$SRV.PING",),
}
MAY_NOT_PUBLISH = {
    "client": (
        *("worker.heartbeat", "worker.control.w1", "infer.local.w.w1", "telemetry.response", "metrics.mesh"),
        *("result.t1", "mesh.sys.disconnect", "$JS.API.STREAM.PURGE.TELEMETRY", "_INBOX_manager.abc.1"),
        *("$JS.API.CONSUMER.CREATE.RESULTS.x", "$JS.API.STREAM.PURGE.JOBS", "$JS.API.DIRECT.GET.KV_bullpen_answers"),
    ),
    "worker": ("infer.auto", "infer.local", "infer.local.w.w1", "metrics.mesh", "telemetry.feedback", "$JS.API.INFO"),
    "manager": (
        *("infer.auto", "worker.heartbeat", "telemetry.worker", "mesh.sys.connect", "$JS.API.INFO"),
        *("$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.PING.SUBSZ", "$JS.API.STREAM.PURGE.JOBS"),
    ),
    "telemetry": ("infer.auto", "worker.heartbeat", "worker.control.w1", "$JS.API.STREAM.DELETE.JOBS"),
    "observer": ("infer.auto", "worker.heartbeat", "worker.control.w1", "infer.feedback", "telemetry.response"),
}
MAY_SUBSCRIBE = {
    "client": ("_INBOX.>", "result.>", "metrics.>", "worker.heartbeat"),
    "worker": ("infer.local", "infer.local.w.w1", "infer.cancel", "worker.control.w1", "$SRV.PING"),
    "manager": ("infer.auto", "infer.cancel", "worker.heartbeat", "mesh.sys.disconnect", "$SRV.PING"),
    "telemetry": ("infer.feedback", "$SRV.PING"),
    "observer": ("metrics.>", "worker.heartbeat", "mesh.sys.disconnect"),
}
MAY_NOT_SUBSCRIBE = {
    "client": (">", "infer.>", "infer.auto", "telemetry.>", "worker.control.w1", "_INBOX_manager.>", "_INBOX_worker.>"),
    "worker": ("infer.auto", "infer.feedback", "telemetry.>", "_INBOX.>", "_INBOX_manager.>", "worker.heartbeat"),
    "manager": ("infer.local", "telemetry.>", "_INBOX.>", "worker.control.w1"),
    "telemetry": ("infer.auto", "infer.local", "worker.heartbeat", "worker.control.w1"),
    "observer": ("infer.>", "telemetry.>", "worker.control.w1", "_INBOX_worker.>"),
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[BusSettings]:
    """The shipped configuration as it is, but for where it listens and stores."""
    port = free_port()
    text = CONFIG.read_text().replace("0.0.0.0:4222", f"127.0.0.1:{port}").replace("http: 127.0.0.1:8222", "")
    (tmp_path / "nats.conf").write_text(text.replace("store_dir: /data", f"store_dir: {tmp_path}"))
    log = tmp_path / "log"
    process = _start(tmp_path / "nats.conf", log)
    try:
        await eventually(lambda: "Server is ready" in log.read_text(), timeout=10)
        yield BusSettings(servers=(f"nats://127.0.0.1:{port}",))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("role", MAY_PUBLISH)
async def test_a_role_publishes_what_its_work_needs_and_nothing_else(server: BusSettings, role: str) -> None:
    async with Probe.joined(server, role) as probe:
        told = {s: await probe.refused(f"PUB {s} 0\r\n") for s in (*MAY_PUBLISH[role], *MAY_NOT_PUBLISH[role])}
    assert {subject for subject, refused in told.items() if refused} == set(MAY_NOT_PUBLISH[role])


@pytest.mark.parametrize("role", MAY_SUBSCRIBE)
async def test_a_role_hears_what_its_work_needs_and_nothing_else(server: BusSettings, role: str) -> None:
    async with Probe.joined(server, role) as probe:
        told = {s: await probe.refused(f"SUB {s} 1\r\n") for s in (*MAY_SUBSCRIBE[role], *MAY_NOT_SUBSCRIBE[role])}
    assert {subject for subject, refused in told.items() if refused} == set(MAY_NOT_SUBSCRIBE[role])


@pytest.mark.parametrize("role", ROLES)
async def test_every_role_may_ask_itself_whether_it_is_deaf(server: BusSettings, role: str) -> None:
    """A role that cannot would take itself for deaf and reconnect for ever."""
    heard = asyncio.Event()
    async with _joined(server, role) as bus:
        with bus.listen(lambda _: heard.set()) as echo:
            await bus.publish(echo.subject, b"")
            await asyncio.wait_for(heard.wait(), 5)


async def test_a_worker_cannot_take_away_questions_with_a_wildcard(server: BusSettings) -> None:
    heard: list[str] = []
    async with _joined(server, "client") as client, _joined(server, "worker") as worker:
        await worker.subscribe_inline("infer.*", lambda message: heard.append(message.subject))
        await worker.flush()
        for subject in ("infer.auto", "infer.feedback", "infer.local"):
            await client.publish(subject, b"")
        await eventually(lambda: "infer.local" in heard)
    assert heard == ["infer.local"]


async def test_an_answer_under_way_may_arrive_over_the_next_connection(server: BusSettings) -> None:
    """What `allow_responses` would forget: a worker that was cut off still answers when it is back."""
    async with _joined(server, "client") as client:
        asked: list[str] = []
        answered: list[bytes] = []
        with client.listen(lambda message: answered.append(message.data)) as inbox:
            async with _joined(server, "worker") as worker:
                await worker.subscribe_inline("infer.local", lambda message: asked.append(message.reply))
                await worker.flush()
                await client.publish("infer.local", b"", reply=inbox.subject)
                await eventually(lambda: asked)
            async with _joined(server, "worker") as worker:
                await worker.publish(asked[0], b"Paris")
                await eventually(lambda: answered == [b"Paris"])


async def test_a_manager_may_ask_who_is_connected_and_a_caller_may_not(server: BusSettings) -> None:
    async with _joined(server, "manager") as manager, _joined(server, "worker"), _joined(server, "client") as client:
        assert sorted(await census.connected(manager, within=2) or ()) == ["client", "manager", "worker"]
        assert await census.connected(client, within=0.2) is None


async def test_the_books_are_kept_with_these_permissions(server: BusSettings) -> None:
    spec = StreamSpec(
        name="TELEMETRY", subjects=("telemetry.>",), max_age_s=3600, max_bytes=1_000_000, duplicate_window_s=60
    )
    async with _joined(server, "telemetry") as telemetry, _joined(server, "worker") as worker:
        await ensure_stream(telemetry, spec)
        books = await PullConsumer.open(
            telemetry, stream="TELEMETRY", durable="books", ack_wait_s=60, max_ack_pending=9
        )
        await worker.request("telemetry.response", b"row", timeout=5)
        rows = await books.fetch(1, timeout=5)
        assert [row.data for row in rows] == [b"row"]
        await rows[0].ack()
        await eventually(lambda: _nothing_pending(books))


async def test_jobs_are_done_with_these_permissions(server: BusSettings) -> None:
    """All but the work itself: this one cannot be read, which is its result."""
    async with _joined(server, "manager") as manager, _joined(server, "client") as client:
        mine = Jobs(manager, JobsConfig(), _no_work)
        mine.take_part()
        taking = asyncio.create_task(mine.run())
        asking = client_jobs.Jobs(client)
        await asking.ready()
        ticket = await asking.submit(Question(b'{"promt": "x", "task_id": "t1"}', "t1", 1000, stream=False), "job-a")
        with pytest.raises(RequestFailed, match="promt"):
            await asking.wait(ticket, 10)
        await eventually(lambda: mine.running == 0)
        assert await mine._count(Job(StoredMessage(manager, "", "", b""), "a job", "t1")) == 1
        assert await mine._count(Job(StoredMessage(manager, "", "", b""), "a job", "t1")) == 2
        taking.cancel()
        await mine.leave()


async def _no_work(message: Message, job_id: str) -> tuple[Result, BullpenError | None]:
    raise BullpenError(ErrorCode.INVALID_REQUEST, "promt: no such field")


async def _nothing_pending(consumer: PullConsumer) -> bool:
    return await consumer.pending() == 0


class Probe:
    """A bare connection, for it is the server's own refusals that count."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def joined(cls, server: BusSettings, role: str) -> AsyncIterator["Probe"]:
        host, _, port = server.where.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        probe = cls(reader, writer)
        login = {"user": role, "pass": _password(role), "verbose": False, "pedantic": False}
        assert not await probe.refused(f"CONNECT {json.dumps(login)}\r\n")
        try:
            yield probe
        finally:
            writer.close()
            await writer.wait_closed()

    async def refused(self, operation: str) -> bool:
        """Whether the server answers this with an error."""
        payload = "\r\n" if operation.startswith("PUB") else ""
        self._writer.write(f"{operation}{payload}PING\r\n".encode())
        refused = False
        while (line := await self._reader.readline()) != b"PONG\r\n":
            assert line, "the server hung up"
            refused = refused or line.startswith(b"-ERR")
        return refused


def _start(config: Path, log: Path) -> "subprocess.Popen[bytes]":
    environment = {f"NATS_{role.upper()}_PASSWORD": _password(role) for role in ROLES} | {"NATS_NAME": "test"}
    command = leashed([str(nats_server.binary()), "-c", str(config), "-l", str(log)])
    log.touch()
    return subprocess.Popen(command, env={**os.environ, **environment})


@asynccontextmanager
async def _joined(server: BusSettings, role: str) -> AsyncIterator[Bus]:
    us = replace(server, user=role, password=_password(role), inbox_prefix=INBOX.get(role, "_INBOX"))
    bus = await Bus.connect(role, us)
    try:
        yield bus
    finally:
        await bus.close()


def _password(role: str) -> str:
    return f"s-{role}"
