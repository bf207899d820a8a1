"""What `nats/` ships beside nats.conf, on real servers: TLS, a cluster, a hub and a leaf at another site."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bullpen.embedded import nats_server
from bullpen.supervision.leash import leashed
from bus import Bus, BusError, BusSettings, BusUnreachable, Message
from bus.jetstream import api
from contracts import BullpenError
from contracts.subjects import TELEMETRY_STREAM, TELEMETRY_WORKER
from manager.config import JobsConfig
from manager.jobs.consumer import Jobs
from manager.jobs.job import Job, Result
from tests import certificates
from tests.mesh import SmallMesh
from tests.proxy import Proxy
from tests.servers import free_port
from tests.support import eventually

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [*sorted((ROOT / "nats").glob("*.conf")), ROOT / "deploy" / "kubernetes" / "kubernetes.conf"]
NAMES = [path.name for path in SHIPPED]
BACKENDS = ("local", "simulated", "ollama", "openai", "gemini", "anthropic")
WORKERS = ("worker", *(f"worker_{backend}" for backend in BACKENDS))
USERS = ("client", *WORKERS, "manager", "gateway", "telemetry", "observer", "admin", "cluster", "leaf")


class Site:
    """A machine with one server: the shipped files as they are, but for where it listens, stores and has its keys."""

    def __init__(self, directory: Path, certs: Path) -> None:
        self.port, self.routes_port, self.leaf_port, self.look_port = (free_port() for _ in range(4))
        self.directory = directory
        directory.mkdir()
        moved = {
            "0.0.0.0:4222": f"127.0.0.1:{self.port}",
            "http: 127.0.0.1:8222": "",
            "0.0.0.0:6222": f"127.0.0.1:{self.routes_port}",
            "0.0.0.0:7422": f"127.0.0.1:{self.leaf_port}",
            "0.0.0.0:8222": f"127.0.0.1:{self.look_port}",
            "/etc/nats/certs": str(certs),
            "store_dir: /data": f"store_dir: {directory}",
        }
        for file in SHIPPED:
            text = file.read_text()
            for old, new in moved.items():
                text = text.replace(old, new)
            (directory / file.name).write_text(text)

    @contextmanager
    def serving(self, config: str, **more: str) -> Iterator[None]:
        environment = {**os.environ, **passwords(), "NATS_NAME": self.directory.name, **more}
        command = [str(nats_server.binary()), "-c", str(self.directory / config), "-l", str(self.log)]
        self.log.touch()
        process = subprocess.Popen(leashed(command), env=environment)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    @property
    def log(self) -> Path:
        return self.directory / "log"

    async def says(self, words: str) -> None:
        await eventually(lambda: words in self.log.read_text(), timeout=30)

    @asynccontextmanager
    async def joined(self, user: str, ca: Path | None = None) -> AsyncIterator[Bus]:
        us = BusSettings(servers=(f"{'tls' if ca else 'nats'}://127.0.0.1:{self.port}",), user=user)
        prefix = {"worker_local": "_INBOX_worker.local", "manager": "_INBOX_manager"}.get(user, "_INBOX")
        us = replace(us, password=f"s-{user}", inbox_prefix=prefix, ca_file=str(ca) if ca else None)
        bus = await Bus.connect(user, us, patience=20)
        try:
            yield bus
        finally:
            await bus.close()


def passwords() -> dict[str, str]:
    return {f"NATS_{user.upper()}_PASSWORD": f"s-{user}" for user in USERS}


@pytest.fixture
def certs(tmp_path: Path) -> certificates.Certificates:
    made = certificates.make(tmp_path / "certs")
    shutil.copy(made.key, tmp_path / "certs" / "server-key.pem")
    return made


@pytest.fixture
def here(tmp_path: Path, certs: certificates.Certificates) -> Site:
    return Site(tmp_path / "here", certs.ca.parent)


@pytest.fixture
def there(tmp_path: Path, certs: certificates.Certificates) -> Site:
    return Site(tmp_path / "there", certs.ca.parent)


@pytest.mark.parametrize("config", NAMES)
def test_the_server_takes_every_config(here: Site, config: str) -> None:
    environment = {
        **os.environ,
        **passwords(),
        "NATS_NAME": "test",
        "NATS_HUB": "tls://leaf:s-leaf@127.0.0.1:7422",
        "NATS_CLUSTER_ROUTES": "[nats://cluster:s-cluster@127.0.0.1:6222]",
    }
    command = [str(nats_server.binary()), "-t", "-c", str(here.directory / config)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("config", NAMES)
def test_no_server_starts_without_passwords(here: Site, config: str) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("NATS_")}
    command = [str(nats_server.binary()), "-t", "-c", str(here.directory / config)]
    told = subprocess.run(command, env={**bare, "NATS_NAME": "x"}, capture_output=True, text=True, check=False)
    assert told.returncode != 0
    assert "NATS_" in told.stderr


async def test_a_client_that_does_not_know_the_authority_is_not_let_in(
    here: Site, certs: certificates.Certificates
) -> None:
    with here.serving("tls.conf"):
        await here.says("Server is ready")
        async with here.joined("client", certs.ca) as client, here.joined("worker_local", certs.ca) as worker:
            assert await answered(worker, client, "infer.local") == b"from worker_local"
        with pytest.raises(BusUnreachable):
            async with here.joined("client", certs.certificate):
                pass


async def test_a_site_behind_a_leaf_serves_and_asks_and_may_do_no_more_there(
    here: Site, there: Site, certs: certificates.Certificates
) -> None:
    hub = f"tls://leaf:s-leaf@127.0.0.1:{here.leaf_port}"
    with here.serving("hub.conf"), there.serving("leaf.conf", NATS_HUB=hub):
        await there.says("Leafnode connection created")
        async with (
            here.joined("manager", certs.ca) as manager,
            there.joined("worker_local") as worker,
            there.joined("client") as client,
            here.joined("client", certs.ca) as near,
        ):
            assert await answered(worker, manager, "infer.local.w.w1") == b"from worker_local"
            assert await answered(worker, near, "infer.local") == b"from worker_local"
            assert await answered(manager, client, "infer.auto") == b"from manager"
            stolen: list[Message] = []
            await worker.subscribe_inline("infer.openai", stolen.append)
            await worker.flush(30)
            await near.publish("infer.openai", b"")
            assert await answered(worker, near, "infer.local") == b"from worker_local"  # which came later
            assert stolen == []


async def test_a_manager_hears_at_once_of_a_worker_that_left_behind_a_leaf(
    here: Site, there: Site, certs: certificates.Certificates
) -> None:
    hub = f"tls://leaf:s-leaf@127.0.0.1:{here.leaf_port}"
    with here.serving("hub.conf"), there.serving("leaf.conf", NATS_HUB=hub):
        await there.says("Leafnode connection created")
        async with here.joined("manager", certs.ca) as manager, there.joined("worker_local") as worker:
            left: list[bytes] = []
            await manager.subscribe_inline("mesh.sys.disconnect", lambda message: left.append(message.data))
            assert await answered(worker, manager, "infer.local.w.w1") == b"from worker_local"
            await worker.close()
            await eventually(lambda: any(b'"worker_local"' in told for told in left))


async def test_a_gpu_box_behind_a_leaf_answers_until_the_link_is_cut_and_again_when_it_is_back(
    here: Site, there: Site, certs: certificates.Certificates
) -> None:
    with here.serving("hub.conf"):
        async with Proxy(here.leaf_port) as link:
            with there.serving("leaf.conf", NATS_HUB=f"tls://leaf:s-leaf@127.0.0.1:{link.port}"):
                await there.says("Leafnode connection created")
                async with _mesh_at(here, certs.ca) as hub, _mesh_at(there) as box:
                    await hub.manager(silent_after_beats=10.0)
                    await box.worker("far")
                    await hub.state("far", "ready")
                    await hub.knows("far")
                    assert (await hub.ask())["worker_id"] == "far"
                    await eventually(lambda: _kept(hub, TELEMETRY_WORKER))  # what the worker itself tells the books
                    await hub.worker("near")
                    link.refuse()
                    link.reset()
                    assert {(await hub.ask())["worker_id"] for _ in range(5)} == {"near"}
                    await hub.stop("near")
                    await link.heal()
                    await eventually(lambda: _answers(hub, "far"), timeout=60)


async def _kept(mesh: SmallMesh, subject: str) -> bool:
    """Whether the hub's stream has something on the subject."""
    about = await api(mesh.bus, f"STREAM.INFO.{TELEMETRY_STREAM}", {"subjects_filter": subject})
    return bool(about["state"].get("subjects"))


class FarMesh(SmallMesh):
    """At a leaf, where `$JS.API` ends."""

    async def _has_stream(self) -> bool:
        return True


async def _answers(mesh: SmallMesh, worker_id: str) -> bool:
    return (await mesh.ask()).get("worker_id") == worker_id


@asynccontextmanager
async def _mesh_at(site: Site, ca: Path | None = None) -> AsyncIterator[SmallMesh]:
    """Roles that are connected to the server of this site, and may do there what they like."""
    kind = SmallMesh if ca else FarMesh
    mesh = kind(f"{'tls' if ca else 'nats'}://127.0.0.1:{site.port}")
    mesh.settings = replace(mesh.settings, user="admin", password="s-admin", ca_file=str(ca) if ca else None)
    async with mesh:
        yield mesh


async def test_a_leaf_without_the_password_stays_outside(here: Site, there: Site) -> None:
    hub = f"tls://leaf:wrong@127.0.0.1:{here.leaf_port}"
    with here.serving("hub.conf"), there.serving("leaf.conf", NATS_HUB=hub):
        await there.says("Authorization Violation")
        assert "s-leaf" not in here.log.read_text()


async def test_two_servers_of_a_cluster_are_one_mesh(here: Site, there: Site) -> None:
    routes = "[{}]".format(",".join(f"nats://cluster:s-cluster@127.0.0.1:{site.routes_port}" for site in (here, there)))
    told = {"NATS_CLUSTER_ROUTES": routes}
    with here.serving("cluster.conf", **told), there.serving("cluster.conf", **told):
        await here.says("Route connection created")
        async with here.joined("worker_local") as worker, there.joined("client") as client:
            assert await answered(worker, client, "infer.local") == b"from worker_local"


async def test_in_kubernetes_an_autoscaler_sees_how_many_jobs_wait(here: Site) -> None:
    """Where deploy/kubernetes/autoscaling/ has it look, and the words that it looks for."""
    with here.serving("kubernetes.conf"):
        await here.says("Server is ready")
        async with here.joined("manager") as manager, here.joined("client") as client:
            jobs = Jobs(manager, JobsConfig(), _unwanted)
            jobs.take_part()
            taking = asyncio.create_task(jobs.run())
            await eventually(lambda: _seen(here, "/healthz?js-server-only=true"))
            await eventually(lambda: _jobs_waiting(here))
            taking.cancel()
            await jobs.leave()
            for _ in range(3):
                await client.request("jobs.submit", b'{"prompt": "hi"}', timeout=30)
            await eventually(partial(_wait, here, 3))


async def _unwanted(message: Message, job: Job, patient: bool) -> tuple[Result, BullpenError | None]:
    raise AssertionError


async def _seen(site: Site, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{site.look_port}{path}") as told:
        return await told.json()


async def _wait(site: Site, count: int) -> bool:
    return await _jobs_waiting(site) == [count]


async def _jobs_waiting(site: Site) -> list[int]:
    """As KEDA's scaler `nats-jetstream` figures it, of every consumer that fits."""
    seen = await _seen(site, "/jsz?acc=MESH&consumers=true&config=true")
    return [
        consumer["num_pending"] + consumer["num_ack_pending"]
        for account in seen.get("account_details", ())
        for stream in account.get("stream_detail", ())
        for consumer in stream.get("consumer_detail", ())
        if (stream["name"], consumer["name"]) == ("JOBS", "managers")
    ]


async def answered(answering: Bus, asking: Bus, subject: str) -> bytes:
    """What comes back when one asks on the subject and the other listens there."""

    async def answer(message: Message) -> None:
        await answering.publish(message.reply, f"from {answering.settings.user}".encode())

    listening = await answering.subscribe(subject, answer)
    await answering.flush(30)

    async def ask() -> bytes:
        try:
            return (await asking.request(subject, b"", timeout=5)).data
        except BusError:  # what one server just heard of, the others hear a moment later
            return b""

    try:
        told: bytes = await eventually(ask)
    finally:
        await listening.stop()
    return told
