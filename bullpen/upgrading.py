"""An upgrade without an outage: one container after the other, the new one first.

For each container of a service another one is started. When it serves, the old one is stopped: it finishes its requests
first. A new container that does not come to serve is removed again, and the old ones go on. The accountant comes first,
because it brings the schema of the books up to date; the Managers last.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bullpen.containers import Container, Made

READY_WITHIN = 300.0
"""Seconds in which a new container has to serve: a worker may load a model."""
LOOK_EVERY = 0.5
SETTLES = 2.0
"""Seconds before an old container is stopped, in which Managers hear of a new worker."""
FIRST, LAST = "telemetry", "manager"


class Engine(Protocol):
    """Runs the containers."""

    def containers(self, service: str) -> Sequence[Container]: ...
    def start_one_more(self, service: str) -> None: ...
    def remove(self, container_id: str) -> None: ...
    def last_words(self, container_id: str) -> str: ...


class UpgradeFailed(Exception):
    """A new container does not serve. It has been removed; the old ones serve on."""

    def __init__(self, service: str, why: str) -> None:
        super().__init__(f"{service}: the new one does not serve ({why}); it is removed again, the old ones serve on")


@dataclass(frozen=True, slots=True)
class Pace:
    """Time limits in seconds."""

    ready_within: float = READY_WITHIN
    look_every: float = LOOK_EVERY
    settles: float = SETTLES


def in_order(services: Iterable[str]) -> list[str]:
    """The accountant, the workers, the Managers."""
    return sorted(services, key=lambda name: (name == LAST, name != FIRST, name))


def replace_all(
    engine: Engine,
    service: str,
    wanted: Made,
    tell: Callable[[str], None],
    pace: Pace = Pace(),
) -> int:
    """Replaces every container of a service that was not made as `wanted`. Returns the number.

    Raises `UpgradeFailed`, and the engine's errors.
    """
    old = [one for one in engine.containers(service) if one.made != wanted]
    for number, one in enumerate(old, start=1):
        _add_one(engine, service, pace)
        time.sleep(pace.settles)
        engine.remove(one.id)
        tell(f"{service}: {number} of {len(old)} replaced")
    return len(old)


def _add_one(engine: Engine, service: str, pace: Pace) -> None:
    """Starts one more container and waits until it serves."""
    before = {one.id for one in engine.containers(service)}
    try:
        engine.start_one_more(service)
        why = _awaited(engine, service, before, pace)
    except BaseException:
        _take_back(engine, service, before)
        raise
    if why:
        _take_back(engine, service, before)
        raise UpgradeFailed(service, why)


def _awaited(engine: Engine, service: str, before: set[str], pace: Pace) -> str:
    """Returns why the new container does not serve; empty when it does."""
    end = time.monotonic() + pace.ready_within
    while True:
        new = [one for one in engine.containers(service) if one.id not in before]
        if new and all(one.ready for one in new):
            return ""
        failed = [one for one in new if one.failed]
        late = time.monotonic() >= end
        if failed or late:
            words = engine.last_words((failed or new)[0].id) if new else "it did not start"
            return f"it said: {words}" if failed else f"not within {pace.ready_within:g} s; it said: {words}"
        time.sleep(pace.look_every)


def _take_back(engine: Engine, service: str, before: set[str]) -> None:
    for one in engine.containers(service):
        if one.id not in before:
            engine.remove(one.id)


def stop_inactive(running: dict[str, list[str]], ours: Iterable[str], active: Iterable[str]) -> dict[str, list[str]]:
    """Containers of our services that are no longer active, as by `COMPOSE_PROFILES`. Pure."""
    left = set(ours) - set(active)
    return {service: ids for service, ids in running.items() if service in left}
