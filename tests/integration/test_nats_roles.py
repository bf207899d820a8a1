"""Who may do what on the NATS server of the containers, probed role by role on a real one."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bullpen.doctor import Finding, examine
from bullpen.embedded import nats_server
from bullpen.supervision.leash import leashed
from bus import Bus, BusSettings, Message
from bus import connected_clients as census
from bus.jetstream import PullConsumer, StreamSpec, ensure_stream
from bus.pull import StoredMessage
from bus.service import Service, serve_info
from client import RequestFailed
from client import jobs as client_jobs
from client.question import Question
from contracts import BullpenError, ErrorCode
from contracts import subjects as s
from manager.config import JobsConfig
from manager.jobs.consumer import Jobs
from manager.jobs.job import Job, Result
from tests.cli import bullpen
from tests.servers import free_port
from tests.support import eventually

CONFIG = Path(__file__).resolve().parents[2] / "nats" / "nats.conf"
BACKENDS = ("local", "simulated", "ollama", "openai", "gemini", "anthropic")
"""Those with a user of their own; `worker` is anybody else's."""
WORKERS = ("worker", *(f"worker_{backend}" for backend in BACKENDS))
ROLES = ("client", *WORKERS, "manager", "gateway", "telemetry", "observer", "admin")
INBOX = {
    **{role: f"_INBOX_{role}" for role in ("manager", "gateway", "telemetry")},
    "worker": "_INBOX_worker.other",
    **{f"worker_{backend}": f"_INBOX_worker.{backend}" for backend in BACKENDS},
}
"""As compose.yaml has it; callers use the usual one."""

Who = tuple[str, ...]
NOBODY: Who = ()
LOOKING_ON: Who = ("client", "observer", "gateway")
ROLES_OF_OURS: Who = (*WORKERS, "manager", "gateway", "telemetry")
CALLERS: Who = ("client", "gateway")
RPC: Who = ("client", *ROLES_OF_OURS, "observer")
KEEPERS: dict[str, Who] = {
    "bullpen_answers": ("manager",),
    "bullpen_jobs": ("manager",),
    "bullpen_budgets": ("manager",),
    "bullpen_grades": ("manager", "telemetry"),
    "bullpen_limits": WORKERS,
    "bullpen_keys": ("gateway", "manager"),
}
"""Of what is kept in JetStream as keys and values."""

MATRIX: dict[str, tuple[Who, Who]] = {
    # subject: (who may publish, who may subscribe). `admin` may do everything, nobody else anything that is not here.
    s.INFER_AUTO: (CALLERS, ("manager",)),
    **{s.infer_backend(name): (("client",), ("worker", f"worker_{name}")) for name in BACKENDS},
    **{s.infer_worker(name, "w1"): (("manager",), ("worker", f"worker_{name}")) for name in BACKENDS},
    s.EMBED_AUTO: (CALLERS, ("manager",)),
    **{s.asked_backend("embed", name): (("client",), ("worker", f"worker_{name}")) for name in BACKENDS},
    **{s.asked_worker("embed", name, "w1"): (("manager",), ("worker", f"worker_{name}")) for name in BACKENDS},
    "embed.mine": (("client",), ("worker",)),
    "embed.mine.w.w1": (("manager",), ("worker",)),
    "embed.*": (NOBODY, ("worker",)),
    "embed.>": (NOBODY, ("worker",)),
    "infer.mine": (("client",), ("worker",)),
    "infer.mine.w.w1": (("manager",), ("worker",)),
    "infer.*": (NOBODY, ("worker",)),  # what is not for workers is kept back from it, see below
    "infer.>": (NOBODY, ("worker",)),
    s.INFER_CANCEL: (CALLERS, ("manager", *WORKERS)),
    s.INFER_STATUS: ((*CALLERS, "manager"), ("manager",)),
    s.INFER_FEEDBACK: (("client",), ("telemetry",)),
    s.JOBS_SUBMIT: (("client",), NOBODY),
    s.result("t1"): ((*WORKERS, "manager"), ("client",)),
    s.RESULT_ANY: (NOBODY, ("client",)),
    s.WORKER_HEARTBEAT: (WORKERS, (*CALLERS, "manager", "observer")),
    s.WORKER_HEARTBEATS: (NOBODY, ("manager",)),
    **{s.worker_heartbeat(name, "w1"): ((f"worker_{name}",), ("manager",)) for name in BACKENDS},
    "worker.heartbeat.mine.w1": (("worker",), ("manager",)),
    s.worker_control("w1"): (("manager", "gateway"), WORKERS),
    s.manager_control("m1"): (("manager", "gateway"), ("manager",)),
    s.BOOKS_QUERY: (("gateway",), ("telemetry",)),
    s.BOOKS_GRADE: (("gateway",), ("telemetry",)),
    s.GATEWAY_KEY_USE: (("gateway",), ("gateway",)),
    s.TELEMETRY_RESPONSE: ((*WORKERS, "manager"), NOBODY),
    s.TELEMETRY_ATTEMPT: ((*WORKERS, "manager"), NOBODY),
    s.TELEMETRY_WORKER: (WORKERS, NOBODY),
    s.TELEMETRY_FEEDBACK: (("manager", "telemetry"), NOBODY),
    s.TELEMETRY_CHECK: (NOBODY, NOBODY),
    s.TELEMETRY_ANY: (NOBODY, NOBODY),
    s.METRICS_MESH: (("manager", "telemetry"), LOOKING_ON),
    s.METRICS_GRADE: (("manager", "telemetry"), LOOKING_ON),
    s.METRICS_ROUTE: (("manager",), ("observer", "telemetry", "gateway")),  # it names everybody's requests
    s.METRICS_BUDGET: (("manager",), LOOKING_ON),
    s.metrics_model("m"): (("manager",), LOOKING_ON),
    s.metrics_worker("w1"): (("manager",), LOOKING_ON),
    "metrics.>": (NOBODY, LOOKING_ON),
    s.SYS_CONNECT: (NOBODY, ("manager", "observer")),
    s.SYS_DISCONNECT: (NOBODY, ("manager", "observer", "gateway")),
    "$SRV.PING": (RPC, ROLES_OF_OURS),
    "$SRV.INFO.bullpen-worker": (RPC, ROLES_OF_OURS),
    "$SRV.STATS": (RPC, ROLES_OF_OURS),
    # Inboxes: each hears its own, and those who answer may write there.
    "_INBOX.a.1": (RPC, ("client", "telemetry", "observer")),
    "_INBOX.>": (NOBODY, ("client", "telemetry", "observer")),
    "_INBOX_manager.a.1": ((*WORKERS, "manager"), ("manager",)),
    **{f"_INBOX_manager.a.{name}.1": ((f"worker_{name}", "manager"), ("manager",)) for name in BACKENDS},
    "_INBOX_manager.a.mine.1": (("worker", "manager"), ("manager",)),
    "_INBOX_manager.>": (NOBODY, ("manager",)),
    "_INBOX_gateway.a.1": ((*ROLES_OF_OURS,), ("gateway",)),
    "_INBOX_telemetry.a.1": (("telemetry",), ("telemetry",)),
    **{f"_INBOX_worker.{name}.a.1": ((f"worker_{name}", "manager"), (f"worker_{name}",)) for name in BACKENDS},
    "_INBOX_worker.other.a.1": (("worker", "manager"), ("worker",)),
    "_INBOX_worker.>": (NOBODY, NOBODY),
    # JetStream: whoever keeps something there, and nobody may throw it away.
    "$JS.API.INFO": (("observer",), NOBODY),
    "$JS.API.STREAM.CREATE.JOBS": (("manager",), NOBODY),
    "$JS.API.STREAM.CREATE.TELEMETRY": (("telemetry",), NOBODY),
    "$JS.API.STREAM.PURGE.JOBS": (NOBODY, NOBODY),
    "$JS.API.STREAM.DELETE.JOBS": (NOBODY, NOBODY),
    "$JS.API.STREAM.MSG.GET.JOBS": (NOBODY, NOBODY),
    "$JS.API.STREAM.PURGE.RESULTS": (NOBODY, NOBODY),
    "$JS.API.STREAM.SNAPSHOT.TELEMETRY": (("telemetry",), NOBODY),
    "$JS.API.DIRECT.GET.RESULTS": (("client", "manager"), NOBODY),
    "$JS.API.CONSUMER.CREATE.RESULTS.x": (NOBODY, NOBODY),
    "$JS.API.CONSUMER.CREATE.TELEMETRY.books": (("telemetry",), NOBODY),
    "$JS.API.CONSUMER.MSG.NEXT.JOBS.managers": (("manager",), NOBODY),
    "$JS.ACK.JOBS.managers.1.1.1.1.0": (("manager",), NOBODY),
    "$JS.ACK.TELEMETRY.books.1.1.1.1.0": (("telemetry",), NOBODY),
    **{f"$JS.API.STREAM.{verb}.JOBS": (("manager",), NOBODY) for verb in ("INFO", "UPDATE")},
    **{f"$JS.API.STREAM.{verb}.RESULTS": (("manager",), NOBODY) for verb in ("INFO", "CREATE", "UPDATE")},
    "$JS.API.CONSUMER.INFO.JOBS.managers": (("manager",), NOBODY),
    "$JS.API.CONSUMER.DURABLE.CREATE.JOBS.managers": (("manager",), NOBODY),
    "$JS.API.CONSUMER.DELETE.JOBS.managers": (NOBODY, NOBODY),
    "$JS.API.CONSUMER.MSG.NEXT.TELEMETRY.books": (("telemetry",), NOBODY),
    "$JS.ACK.hub.x.JOBS.managers.1.1.1.1.0.y": (("manager",), NOBODY),  # over a leaf
    "$JS.ACK.hub.x.TELEMETRY.books.1.1.1.1.0.y": (("telemetry",), NOBODY),
    **{f"$JS.API.STREAM.CREATE.KV_{name}": (keepers, NOBODY) for name, keepers in KEEPERS.items()},
    **{f"$JS.API.DIRECT.GET.KV_{name}.k": (keepers, NOBODY) for name, keepers in KEEPERS.items()},
    **{f"$JS.API.STREAM.{verb}.KV_{name}": (NOBODY, NOBODY) for verb in ("DELETE", "PURGE") for name in KEEPERS},
    "$KV.bullpen_answers.k": (("manager",), ("manager",)),
    "$KV.bullpen_budgets.k": (("manager",), NOBODY),
    "$KV.bullpen_jobs.k": (("manager",), NOBODY),
    "$KV.bullpen_limits.k": (WORKERS, NOBODY),
    "$KV.bullpen_keys.k": (("gateway",), ("gateway", "manager")),
    "$JS.API.DIRECT.GET.KV_bullpen_keys": (("gateway", "manager"), NOBODY),
    "$JS.API.DIRECT.GET.KV_bullpen_keys.k": (("gateway",), NOBODY),
    "$KV.bullpen_grades.k": (("telemetry",), ("manager",)),
    "$SYS.REQ.ACCOUNT.PING.CONNZ": (("manager",), NOBODY),
    "$SYS.REQ.ACCOUNT.PING.SUBSZ": (NOBODY, NOBODY),
    "$SYS.REQ.SERVER.PING.CONNZ": (NOBODY, NOBODY),
    "$SYS.ACCOUNT.MESH.DISCONNECT": (NOBODY, NOBODY),
    "anything.else": (NOBODY, NOBODY),
    ">": (NOBODY, NOBODY),
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
        await eventually(lambda: "Server is ready" in log.read_text(), timeout=40)
        yield BusSettings(servers=(f"nats://127.0.0.1:{port}",))
    finally:
        process.kill()
        process.wait()


async def test_every_role_may_do_what_its_work_needs_and_nothing_else(server: BusSettings) -> None:
    wrong: list[str] = []
    for role in ROLES:
        async with Probe.joined(server, role) as probe:
            for subject, may in MATRIX.items():
                for verb, allowed in zip(("PUB", "SUB"), may, strict=True):
                    if verb == "PUB" and ("*" in subject or ">" in subject):
                        continue  # no subject to publish to
                    told = not await probe.refused(f"{verb} {subject} {0 if verb == 'PUB' else 1}\r\n")
                    if told != (role == "admin" or role in allowed):
                        wrong.append(f"{role} {'may' if told else 'may not'} {verb} {subject}")
    assert wrong == []


def test_no_subject_of_ours_is_missing_in_the_matrix() -> None:
    subject = re.compile(r"[a-z]+(\.[a-z>]+)+")
    ours = {word for name, word in vars(s).items() if name.isupper() and subject.fullmatch(str(word))}
    assert ours <= set(MATRIX)


def test_no_permission_is_missing_in_the_matrix() -> None:
    permissions = CONFIG.read_text().partition("\nCLIENT {")[2].partition("\nsystem_account")[0]
    patterns = {
        re.escape(given).replace(r"\*", "[^.]+").replace(">", ".+")
        for given in re.findall(r'"([^"]+\.[^"]+)"', permissions)
    }
    assert len(patterns) > 50
    assert (
        sorted(pattern for pattern in patterns if not any(re.fullmatch(pattern, subject) for subject in MATRIX)) == []
    )


@pytest.mark.parametrize("role", ROLES)
async def test_every_role_may_ask_itself_whether_it_is_deaf(server: BusSettings, role: str) -> None:
    """A role that cannot would take itself for deaf and reconnect for ever."""
    heard = asyncio.Event()
    async with _joined(server, role) as bus:
        with bus.listen(lambda _: heard.set()) as echo:
            await bus.publish(echo.subject, b"")
            await asyncio.wait_for(heard.wait(), 40)


@pytest.mark.parametrize("wildcard", ["infer.*", "infer.>"])
async def test_a_worker_cannot_take_away_questions_with_a_wildcard(server: BusSettings, wildcard: str) -> None:
    heard: list[str] = []
    async with _joined(server, "client") as client, _joined(server, "worker") as worker:
        await worker.subscribe_inline(wildcard, lambda message: heard.append(message.subject))
        await worker.flush(30)
        for subject in ("infer.auto", "infer.feedback", "infer.local"):
            await client.publish(subject, b"")
        await eventually(lambda: "infer.local" in heard)
    assert heard == ["infer.local"]


async def test_a_caller_sees_no_one_s_requests_also_with_a_wildcard(server: BusSettings) -> None:
    heard: list[str] = []
    async with _joined(server, "client") as client, _joined(server, "manager") as manager:
        await client.subscribe_inline("metrics.>", lambda message: heard.append(message.subject))
        await client.flush(30)
        for subject in (s.METRICS_ROUTE, s.METRICS_MESH):
            await manager.publish(subject, b"{}")
        await eventually(lambda: s.METRICS_MESH in heard)
    assert heard == [s.METRICS_MESH]


async def test_no_worker_writes_where_another_backend_s_answer_is_awaited(server: BusSettings) -> None:
    heard: list[bytes] = []
    async with (
        _joined(server, "manager") as manager,
        _joined(server, "worker_ollama") as thief,
        _joined(server, "worker_local") as worker,
    ):
        with manager.listen(lambda message: heard.append(message.data), of="local") as inbox:
            await thief.publish(inbox.subject, b"forged")
            await thief.flush(30)
            await worker.publish(inbox.subject, b"true")
            await eventually(lambda: heard)
    assert heard == [b"true"]


async def test_an_answer_under_way_may_arrive_over_the_next_connection(server: BusSettings) -> None:
    """What `allow_responses` would forget: a worker that was cut off still answers when it is back."""
    async with _joined(server, "client") as client:
        asked: list[str] = []
        answered: list[bytes] = []
        with client.listen(lambda message: answered.append(message.data)) as inbox:
            async with _joined(server, "worker_local") as worker:
                await worker.subscribe_inline("infer.local", lambda message: asked.append(message.reply))
                await worker.flush(30)
                await client.publish("infer.local", b"", reply=inbox.subject)
                await eventually(lambda: asked)
            async with _joined(server, "worker_local") as worker:
                await worker.publish(asked[0], b"Paris")
                await eventually(lambda: answered == [b"Paris"])


async def test_a_manager_may_ask_who_is_connected_and_a_caller_may_not(server: BusSettings) -> None:
    async with (
        _joined(server, "manager") as manager,
        _joined(server, "worker_local"),
        _joined(server, "client") as client,
    ):
        assert sorted(await census.connected(manager, within=20) or ()) == ["client", "manager", "worker_local"]
        assert await census.connected(client, within=0.2) is None


async def test_an_observer_may_look_at_the_mesh_with_doctor(server: BusSettings) -> None:
    """What it may not ask is left out, and ends nothing."""
    async with _joined(server, "manager") as manager, _joined(server, "telemetry") as telemetry:
        await serve_info(manager, Service("bullpen-manager", "m-1", "1.0.0", "fake"))
        await serve_info(telemetry, Service("bullpen-telemetry", "t-1", "1.0.0", "fake"))
        env = {"NATS_URL": f"nats://{server.where}", "NATS_USER": "observer", "NATS_PASSWORD": _password("observer")}
        env["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
        parts = ("NATS", "system events", "Managers", "JetStream", "telemetry")

        async def all_well() -> dict[str, tuple[str, str]]:
            told = await bullpen("doctor", "--json", env=env)
            found = {finding["part"]: (finding["state"], finding["detail"]) for finding in told.json()}
            assert [found[part][0] for part in parts] == ["ok"] * len(parts)
            return found

        found = await eventually(all_well)
    assert found["books"][0] == "warn"
    assert found["books"][1].startswith("not looked at")


@pytest.mark.parametrize("role", ["manager", "telemetry", "worker_local"])
async def test_doctor_in_a_roles_container_takes_nothing_for_missing_that_it_may_not_see(
    server: BusSettings, role: str
) -> None:
    async with _joined(server, "manager") as manager:
        await serve_info(manager, Service("bullpen-manager", "m-1", "1.0.0", "fake"))
        settings = replace(server, user=role, password=_password(role), inbox_prefix=INBOX[role])

        async def none_fails() -> list[Finding]:
            found = [finding async for finding in examine(settings, None) if not finding.part.startswith("backend ")]
            assert [finding for finding in found if finding.state == "fail"] == []
            return found

        found = await eventually(none_fails)
    unsure = [finding for finding in found if "may see" in finding.detail]
    assert unsure
    assert all("NATS_USER=observer" in finding.cure for finding in unsure)


async def test_the_books_are_kept_with_these_permissions(server: BusSettings) -> None:
    spec = StreamSpec(
        name="TELEMETRY", subjects=("telemetry.>",), max_age_s=3600, max_bytes=1_000_000, duplicate_window_s=60
    )
    async with _joined(server, "telemetry") as telemetry, _joined(server, "worker_local") as worker:
        await ensure_stream(telemetry, spec)
        books = await PullConsumer.open(
            telemetry, stream="TELEMETRY", durable="books", ack_wait_s=60, max_ack_pending=9
        )
        await worker.request("telemetry.response", b"row", timeout=30)
        rows = await books.fetch(1, timeout=30)
        assert [row.data for row in rows] == [b"row"]
        await rows[0].ack()
        await eventually(lambda: _nothing_pending(books))


async def test_jobs_are_done_with_these_permissions(server: BusSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the work itself: this one cannot be read, which is its result."""
    monkeypatch.setattr("manager.jobs.consumer.CALL_WITHIN", 30.0)
    async with _joined(server, "manager") as manager, _joined(server, "client") as client:
        mine = Jobs(manager, JobsConfig(), _no_work)
        mine.take_part()
        taking = asyncio.create_task(mine.run())
        asking = client_jobs.JobQueue(client)
        await asking.ready()
        ticket = await asking.submit(Question(b'{"promt": "x", "task_id": "t1"}', "t1", 1000, stream=False), "job-a")
        with pytest.raises(RequestFailed, match="promt"):
            await asking.wait(ticket, 40)
        await eventually(lambda: mine.running == 0)
        assert await mine._count(Job(StoredMessage(manager, "", "", b""), "a job", "t1")) == 1
        assert await mine._count(Job(StoredMessage(manager, "", "", b""), "a job", "t1")) == 2
        taking.cancel()
        await mine.leave()


async def _no_work(message: Message, job: Job, patient: bool) -> tuple[Result, BullpenError | None]:
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
    bus = await Bus.connect(role, us, patience=20, watchdog=False)
    try:
        yield bus
    finally:
        await bus.close()


def _password(role: str) -> str:
    return f"s-{role}"
