"""Fixtures for every level of tests: real servers, each test with its own."""

import asyncio
import faulthandler
import itertools
import os
import shutil
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import certifi
import psutil
import pytest
from hypothesis import HealthCheck, settings

from bullpen.embedded import nats_server as _nats
from bullpen.embedded import postgres as _postgres
from telemetry.store import Store
from telemetry.upkeep.migrate import migrate
from tests.gate import Gate
from tests.servers import PATIENT, NatsServer, PostgresServer, free_port

NO_CLOCK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
"""A busy machine is slow: no example is timed."""
settings.register_profile("same", NO_CLOCK, derandomize=True, max_examples=25)
settings.register_profile("deep", NO_CLOCK, max_examples=2000)
settings.register_profile("fuzz", NO_CLOCK, max_examples=35_000)  # of three kinds of peers: 100,000 in all
settings.load_profile("same")  # what is found anew is found by `--hypothesis-profile deep`, not by who merges

STUCK = 120.0
"""Seconds that a failed test may take to be taken down."""
OURS_TO_SET = ("NATS_", "DATABASE_URL", "BULLPEN_")
ROOM = 8 << 30
"""Bytes of memory that are enough for a run's temporary files: it has two gigabytes of them at most."""
_numbers = itertools.count(1)
_own_temp = pytest.StashKey[str]()


def _in_memory() -> Path | None:
    """Where a disk that others use as well keeps no server waiting, if there is room. None: nowhere.

    What runs that failed have left there goes: it is kept until the next one.
    """
    memory = Path("/dev/shm")
    if not memory.is_dir():
        return None
    for left in memory.glob("bullpen-tests-*"):
        owner = left.name.split("-")[2]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    told = os.statvfs(memory)
    room = min(told.f_bavail * told.f_frsize, psutil.virtual_memory().available)
    return memory if room > ROOM and not told.f_flag & os.ST_NOEXEC else None


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Gives this run a temporary folder of its own.

    The one that pytest shares between runs is closed to others whenever another run begins, and Postgres, which
    runs as somebody else when we are root, would lose its files in the middle of a test.
    """
    if config.option.basetemp is None:
        own_temp = tempfile.mkdtemp(prefix=f"bullpen-tests-{os.getpid()}-", dir=_in_memory())
        config.option.basetemp = config.stash[_own_temp] = own_temp
    for name in [name for name in os.environ if name.startswith(OURS_TO_SET) and name != "BULLPEN_TEST_BACKENDS"]:
        del os.environ[name]  # a mesh that somebody works with is not the tests'
    if sys.dont_write_bytecode:  # else each of some three hundred processes compiles everything anew
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(config.rootpath / ".pytest_cache" / "bytecode")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto`: three for each processor, for tests wait four fifths of their time; six at most."""
    return min(3 * (os.cpu_count() or 1), 6)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives each xdist worker scenarios first, so that none is left over at the end."""
    long = [item for item in items if item.get_closest_marker("scenario")]
    short = [item for item in items if not item.get_closest_marker("scenario")]
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    share = -(-len(short) // workers)
    items[:] = [item for n in range(workers) for item in (*long[n::workers], *short[n * share : (n + 1) * share])]


@pytest.hookimpl(trylast=True)
def pytest_exception_interact() -> None:
    """A test that failed may still hang while it is taken down, and pytest stops the watch as soon as one fails."""
    faulthandler.dump_traceback_later(STUCK, exit=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    own_temp = session.config.stash.get(_own_temp, None)
    if own_temp is not None and exitstatus == pytest.ExitCode.OK:  # else its logs tell what went wrong
        shutil.rmtree(own_temp, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    own_temp = config.stash.get(_own_temp, None)
    if own_temp is not None and exitstatus == pytest.ExitCode.TESTS_FAILED:
        terminalreporter.write_line(f"What the failed tests' processes wrote is kept: {own_temp}")


@pytest.fixture(autouse=True, scope="session")
def standard_ports() -> Iterator[None]:
    """Ours alone: those of this machine belong to whoever works on it."""
    with pytest.MonkeyPatch.context() as patch:
        for server in (_nats, _postgres):
            patch.setattr(server, "STANDARD_PORT", free_port())
        yield


@pytest.fixture(autouse=True, scope="session")
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One certificate authority instead of all: every client of a provider reads them anew, which takes 30 ms.

    Real providers are not asked; whoever speaks TLS to a stand-in brings its authority along.
    """
    first, end, _ = Path(certifi.where()).read_text(encoding="utf-8").partition("-----END CERTIFICATE-----\n")
    file = tmp_path_factory.mktemp("authorities") / "one.pem"
    file.write_text(first + end, encoding="utf-8")
    paths = ssl.get_default_verify_paths()._replace(openssl_cafile=str(file), openssl_capath="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certifi, "where", lambda: str(file))
        patch.setattr(ssl, "get_default_verify_paths", lambda: paths)
        yield


@pytest.fixture
async def nats(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A private NATS server that can be killed, frozen and started again.

    A client that stands still, as on a busy machine, it cuts off late; as soon as a test wants with
    `parametrize("nats", [seconds], indirect=True)`, None: as the embedded one.
    """
    directory = tmp_path / "nats"
    directory.mkdir()
    server = NatsServer(directory, cuts_off_after=getattr(request, "param", PATIENT))
    await server.start()
    yield server
    server.kill()


@pytest.fixture
def nats_server(nats: NatsServer) -> str:
    """The address of a private NATS server."""
    return nats.url


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Simulated workers wait with an answer to `gate.prompt` until it is open."""
    made = Gate()
    made.hold(monkeypatch)
    return made


@pytest.fixture
def patient_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """JetStream may take its time. Keys are best effort when it does not answer soon, as they should be."""
    monkeypatch.setattr("manager.idempotency.WITHIN", 5.0)
    monkeypatch.setattr("manager.idempotency.FINISH_WITHIN", 10.0)
    monkeypatch.setattr("manager.idempotency.STATUS_WITHIN", 1.5)
    monkeypatch.setattr("manager.manager.OPEN_ANSWERS_WITHIN", 20.0)
    monkeypatch.setattr("bus.kv.API_TIMEOUT", 10.0)


@pytest.fixture
def patient_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a provider, in this process, may take its time to let a worker connect."""
    for name in ("anthropic", "gemini", "ollama", "openai"):
        monkeypatch.setattr(f"workers.{name}.backend.CONNECT_TIMEOUT", 40.0)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One Postgres for all tests. A test that stops it must start it again."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    asyncio.run(server.start())
    yield server
    server.stop()


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """A private Postgres, not started yet, for tests that maltreat it."""
    directory = tmp_path / "own-postgres"
    directory.mkdir()
    server = PostgresServer(directory)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def books_template(postgres_server: PostgresServer) -> str:
    """The name of a database with the newest schema, to be copied: making it anew takes ten times as long."""
    name = "books_template"

    async def make() -> None:
        connection = await asyncpg.connect(postgres_server.url)
        await connection.execute(f"CREATE DATABASE {name} STRATEGY = FILE_COPY")
        await connection.close()
        store = Store(postgres_server.database(name), 5)
        await migrate(store)
        await store.close()

    asyncio.run(make())
    return name


@pytest.fixture
async def database_url(postgres_server: PostgresServer, books_template: str) -> AsyncIterator[str]:
    """The address of a database of one's own with the newest schema and no rows."""
    async with _database(postgres_server, books_template) as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The address of a database of one's own, without a schema."""
    async with _database(postgres_server, "template1") as url:
        yield url


@asynccontextmanager
async def _database(server: PostgresServer, template: str) -> AsyncIterator[str]:
    name = f"test_{next(_numbers)}"
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY = FILE_COPY")
        yield server.database(name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()
