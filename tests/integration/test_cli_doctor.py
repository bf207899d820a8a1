"""`bullpen doctor`: what is wrong, and what to do about it."""

import pytest

from bus.jetstream import StreamSpec, ensure_stream
from bus.service import Service, serve_info
from contracts import subjects as s
from tests.cli import bullpen, findings
from tests.fake_manager import FakeWorkers

NOWHERE = "nats://127.0.0.1:1"

pytestmark = [pytest.mark.usefixtures("patience"), pytest.mark.timeout(300)]  # `bullpen doctor` imports every SDK


async def test_doctor_where_nothing_runs_says_what_to_do() -> None:
    code, found = await findings(NATS_URL=NOWHERE)
    assert code == 1
    assert found["Python"][0] == "ok"
    assert found["NATS"][0] == "fail"
    assert found["Postgres"] == ("warn", "set DATABASE_URL, or start the mesh with `bullpen up`")
    assert found["backend simulated"][0] == "ok"
    assert "Managers" not in found, "one cause, one finding"
    for part, (state, cure) in found.items():
        assert state == "ok" or cure, f"{part} has no cure"
    plain = await bullpen("doctor", env={"NATS_URL": NOWHERE})
    assert plain.code == 1
    assert "`bullpen up`" in plain.out


async def test_doctor_where_only_nats_runs(nats_server: str) -> None:
    code, found = await findings(NATS_URL=nats_server, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert code == 1
    assert {part: found[part][0] for part in ("NATS", "JetStream", "system events")} == {
        "NATS": "ok",
        "JetStream": "ok",
        "system events": "ok",
    }
    assert found["Managers"] == ("fail", "start the mesh with `bullpen up`, or one with `bullpen manager`")
    assert found["workers"] == ("fail", "start one: `bullpen worker NAME`, or `bullpen up`")
    assert found["telemetry"] == ("fail", "start one: `bullpen telemetry`")
    assert found["books"][0] == "warn"
    assert found["Postgres"][0] == "fail"


async def test_doctor_of_a_mesh_that_is_well_but_for_a_worker(
    workers: FakeWorkers, nats_server: str, some_books: str
) -> None:
    bus = workers._bus
    await serve_info(bus, Service("bullpen-telemetry", "t-1", "1.0.0", "fake"))
    await ensure_stream(bus, StreamSpec(s.TELEMETRY_STREAM, (s.TELEMETRY_ANY,)))
    code, found = await findings(NATS_URL=nats_server, DATABASE_URL=some_books)
    assert code == 0, found
    assert found["workers"][0] == "ok"
    assert found["worker local-2"][0] == "warn"
    assert found["Postgres"][0] == "ok"
    assert found["books"][0] == "warn", "no consumer yet"
