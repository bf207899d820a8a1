"""An upgrade under load loses no question: the very code of `bullpen upgrade`, with processes for containers."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from bullpen import health_check
from bullpen.containers import Container, Made
from bullpen.upgrading import Pace, in_order, replace_all
from tests.roles import Question, Roles, roles_on_a_server, unwell
from tests.servers import free_port

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]

OLD, NEW = Made("old", ""), Made("new", "")
PACE = Pace(look_every=0.02, settles=4.0)  # a busy Manager hears late of a new worker
KINDS = {"manager": "m", "worker": "w"}


class Processes:
    """Roles as an engine of containers: each shows its status, and is asked by the containers' own check."""

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self._made: dict[str, tuple[Made, str]] = {}
        self._next = 0

    def start(self, service: str, made: Made) -> str:
        self._next += 1
        name, where = f"{KINDS[service]}-{self._next}", f"127.0.0.1:{free_port()}"
        self._made[name] = made, where
        env = {"BULLPEN_STATUS": where, "BULLPEN_SIMULATED__LATENCY_MS": "200"}
        self._roles.manager(name, **env) if service == "manager" else self._roles.worker(name, **env)
        return name

    def containers(self, service: str) -> Sequence[Container]:
        return [self._container(name) for name in self._made if name.startswith(KINDS[service])]

    def start_one_more(self, service: str) -> None:
        self.start(service, NEW)

    def remove(self, container_id: str) -> None:
        """As `docker stop`: asked to leave, and waited for."""
        self._roles.send(container_id, signal.SIGTERM)
        assert self._roles._processes[container_id].wait(60) == 0
        del self._made[container_id]

    def last_words(self, container_id: str) -> str:
        return self._roles.log(container_id)[-500:]

    def _container(self, name: str) -> Container:
        made, where = self._made[name]
        ended = self._roles.ended(name) is not None
        ready = not ended and health_check.check(where, "/readyz") == health_check.HEALTHY
        return Container(name, made, ready, ended)


async def test_bare_questions_meet_no_upgrade(tmp_path: Path) -> None:
    async with roles_on_a_server(tmp_path, 'jetstream {store_dir: "%s"}' % (tmp_path / "js")) as roles:
        engine = Processes(roles)
        for service in ("manager", "worker"):
            engine.start(service, OLD)
        await roles.ready()
        asked: list[Question] = []

        async def keep_asking() -> None:
            while True:
                asked.append(await roles.ask(stream=len(asked) % 4 == 0, deadline_ms=60_000))
                await asyncio.sleep(0.05)

        asking = asyncio.create_task(keep_asking())
        for service in in_order(KINDS):
            assert await asyncio.to_thread(replace_all, engine, service, NEW, print, PACE) == 1
        asking.cancel()
        assert unwell(await roles.answered(asked)) == []
        assert len(asked) > 20
        assert {one.made for service in KINDS for one in engine.containers(service)} == {NEW}
