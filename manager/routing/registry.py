"""The workers of the mesh: heartbeats and departures in, workers out.

Pure: no clock of its own, no network. `now` is the loop's monotonic time in seconds.
"""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from contracts import Heartbeat
from contracts.subjects import worker_connection_name
from manager.routing.circuit_breaker import CircuitBreaker
from manager.routing.clock_offset import ClockOffset

STRANGERS_BELIEVED = 16
"""So many workers without a name at the server are taken at their word. When there are more, most are made up."""
MOST_STRANGERS = 200
"""That are known at once: what makes up ten thousand ids costs no more than that."""
STRANGERS_SHARE = 0.1
"""Of the decisions, in which some of a crowd of strangers take part beside workers that are known."""
FORGET_AFTER = 60.0
"""Seconds after which a silent worker is no longer even listed."""
SUSPECT = 1.2
"""Heartbeats missed when the first of several workers that fall silent together is declared silent."""
RETURN_WITHIN = 4.25
"""Seconds in which workers that lost their server are back: the longest pause between two tries, and a
heartbeat.
"""
STOPPED = "stopped"
"""Why a worker is gone that left in order."""
LATE = 1.5
"""Heartbeat intervals after which the next one counts as late."""
PANIC_SHARE = 0.5
"""When more than this share goes silent at once, it is probably this Manager that is deaf."""


class News(Enum):
    """What a heartbeat tells beside the worker's state."""

    NONE = "none"
    VOID = "void"
    """It restarted, or it left: what ran there will not come back."""
    BACK = "back"
    """It was taken for gone, and is the same as before: what it still does may be another worker's by now."""
    SUPERSEDED = "superseded"
    """An older worker of this id is still beating its heart."""
    REFUSED = "refused"
    """It is not taken in: it speaks for a worker that is another one, or too many strangers are here."""


@dataclass(slots=True, eq=False)
class UncountedRequest:
    """A request that was sent to a worker, and may be of those that its last heartbeat does not count yet."""

    tokens: float
    """What it may use of a limit of tokens."""
    known: bool = False
    """The worker has said something about it, or never will: its next heartbeat counts it."""


class Probe(NamedTuple):
    """Which breakers wait for the outcome of a request: that of the worker, that of the model at this worker."""

    worker: bool = False
    model: bool = False


NO_PROBE = Probe()


@dataclass(slots=True, eq=False)
class ModelView:
    """One model at one worker."""

    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    paused_until: float = 0.0
    """It is to be left alone until then (a rate limit of its own)."""


@dataclass(slots=True, eq=False)
class WorkerView:
    """One worker, as this Manager knows it."""

    heartbeat: Heartbeat
    heard: float
    gone: str = ""
    """Why it counts as gone; empty while it is with us."""
    back_by: float = 0.0
    """It lost its connection and may be back until then."""
    assigned: int = 0
    """Our own requests at this worker right now."""
    assigned_at_beat: int = 0
    paused_until: float = 0.0
    """It asked to be left alone until then (overload, a rate limit of the whole account)."""
    models: dict[str, "ModelView"] = field(default_factory=dict)
    """How each of its models does here, as far as anything is to be said of it."""
    uncounted: list[UncountedRequest] = field(default_factory=list)
    """Requests that we sent there and that its last heartbeat does not count, as far as we can tell."""
    answered: int = 0
    failed: int = 0
    said_full: bool = False
    """It refused a request because it is full, and has said nothing else since: others may send there too."""
    silent: bool = False
    """Gone because its heart was not heard: it may be deaf, frozen, cut off, or all of these but alive."""
    named: bool = False
    """It speaks on a subject of its own, where the server lets no other backend's worker speak."""
    stranger: bool = False
    """The server knows no connection of its name, and it has never taken a request: it may be no worker at all."""
    swapped: bool = False
    """It serves another model than at first."""
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    """Of what concerns the whole worker: it does not claim, its provider cannot be reached, its key is refused."""
    clock: ClockOffset = field(default_factory=ClockOffset)

    @property
    def worker_id(self) -> str:
        return self.heartbeat.worker_id

    @property
    def serves_since(self) -> datetime | None:
        """When it began to serve what it serves; None: later than it started itself."""
        return None if self.swapped else self.heartbeat.started_at

    @property
    def is_lost(self) -> bool:
        """Whether it went without saying so."""
        return self.gone not in ("", STOPPED)

    @property
    def load(self) -> int:
        """Requests running and waiting there, as far as we know: the heartbeat's word, plus what we sent since."""
        beat = self.heartbeat
        return max(self.assigned, beat.inflight + beat.queued + self.assigned - self.assigned_at_beat)

    @property
    def free(self) -> int:
        return max(0, self.heartbeat.capacity - self.load)

    def model(self, model_id: str) -> "ModelView":
        """How one of its models does."""
        return self.models.setdefault(model_id, ModelView())

    def failing(self, model_id: str, now: float, *, include_unclaimed: bool = False) -> str:
        """Why the worker, or this model of its, is left alone after failures; empty when it may be asked.

        `include_unclaimed`: also where it may not be ill at all.
        """
        model = self.models.get(model_id)
        for what, breaker in (("", self.breaker), (f"{model_id} is ", model.breaker if model else None)):
            if breaker is None or breaker.admits(now) or (include_unclaimed and breaker.is_unproved):
                continue
            return f"{what}failing ({breaker.why}), tried again in {breaker.rest(now):.1f} s"
        return ""

    @property
    def is_failing(self) -> bool:
        """Whether nothing it serves is trusted now."""
        cards = self.heartbeat.models
        opened = [card for card in cards if (m := self.models.get(card.model_id)) is not None and m.breaker.is_open]
        return self.breaker.is_open or (bool(cards) and len(opened) == len(cards))

    def pause_left(self, model_id: str, now: float) -> float:
        """Seconds until the worker, and this model of its, may be asked again as far as they asked for a pause."""
        model = self.models.get(model_id)
        return max(self.paused_until, model.paused_until if model else 0.0) - now

    def leave_alone(self, model_id: str | None, until: float) -> None:
        """Leaves a model alone until then (loop's clock), or, None, all of the worker."""
        if model_id is None:
            self.paused_until = until
        else:
            self.model(model_id).paused_until = until

    def sent(self, model_id: str) -> Probe:
        """A request was sent. Returns of which breakers it is the probe; say so when it ends."""
        model = self.models.get(model_id)
        return Probe(worker=self.breaker.sent(), model=model.breaker.sent() if model else False)

    def succeeded(self, model_id: str, now: float, probe: Probe) -> None:
        """A model answered here."""
        self.breaker.succeeded(now, probe=probe.worker)
        if (model := self.models.get(model_id)) is not None:
            model.breaker.succeeded(now, probe=probe.model)

    def model_failed(self, model_id: str, now: float, why: str, probe: Probe) -> None:
        """A model failed here; the worker itself did what it should."""
        self.breaker.succeeded(now, probe=probe.worker)
        self.model(model_id).breaker.failed(now, why, probe=probe.model)

    def worker_failed(self, model_id: str, now: float, why: str, probe: Probe) -> None:
        """The worker failed; of its model that says nothing."""
        self.breaker.failed(now, why, probe=probe.worker)
        self.model(model_id).breaker.withdrawn(probe=probe.model)

    def nothing_learned(self, model_id: str, probe: Probe) -> None:
        """A request ended in a way that says nothing: it was refused for its own sake, or called off."""
        self.breaker.withdrawn(probe=probe.worker)
        self.model(model_id).breaker.withdrawn(probe=probe.model)

    def forgiven(self, model_id: str, now: float, probe: Probe) -> None:
        """It answered after all: what was taken for its last failure was none."""
        self.breaker.forgiven(now, probe=probe.worker)
        self.model(model_id).breaker.forgiven(now, probe=probe.model)

    def spend(self, tokens: float) -> UncountedRequest:
        """A request of about so many tokens is sent there."""
        uncounted = UncountedRequest(tokens)
        self.uncounted.append(uncounted)
        return uncounted

    def short_of(self, tokens: float) -> str:
        """Which of its limits would not allow a request of so many tokens now; empty: none."""
        rate = self.heartbeat.rate
        if rate is None:
            return ""
        if rate.rpm_left is not None and rate.rpm_left <= len(self.uncounted):
            return "requests"
        if rate.tpm_left is not None and rate.tpm_left - sum(uncounted.tokens for uncounted in self.uncounted) < tokens:
            return "tokens"
        return ""

    def rested_at(self) -> float:
        """When there may be more of what is short (loop's clock): as it says; its next heartbeat tells more."""
        rate = self.heartbeat.rate
        resets = None if rate is None else rate.resets_in_ms
        return self.heard + (self.patience if not resets else min(self.patience, resets / 1000))

    @property
    def idle(self) -> bool:
        """Less than half full: it has time for work beside its own."""
        return not self.heartbeat.queued and self.load * 2 < self.heartbeat.capacity

    @property
    def all_local(self) -> bool:
        """Nothing it does sends a bill."""
        return all(card.local for card in self.heartbeat.models)

    @property
    def patience(self) -> float:
        """Seconds of one heartbeat interval."""
        return self.heartbeat.interval_ms / 1000

    @property
    def pause(self) -> float:
        """Seconds for which it said that nothing may be heard of it."""
        return self.heartbeat.pause_ms / 1000

    @property
    def obstacle(self) -> str:
        """Why it can't take work at all; empty when it can."""
        if self.gone:
            return self.gone
        beat = self.heartbeat
        if beat.state != "ready":
            return f"{beat.state}: {beat.reason}".rstrip(": ")
        return "" if beat.capacity else "takes nothing now (capacity 0)"


class Registry:
    def __init__(self, silent_after_beats: float) -> None:
        self._workers: dict[str, WorkerView] = {}
        self.silent_after = silent_after_beats
        self.late = 0
        """Heartbeats that came later than they should."""
        self._swept: float | None = None
        self._excused_until = 0.0
        self._groups: list[list[WorkerView]] = []
        self._changed = True
        """Whether a worker serves other models than when the groups were made."""
        self._strangers: set[str] = set()

    def __iter__(self) -> Iterator[WorkerView]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def is_crowded(self) -> bool:
        """Whether more strangers are here than can be believed."""
        return len(self._strangers) > STRANGERS_BELIEVED

    def pool(self, rng: random.Random) -> list[WorkerView]:
        """The workers that a decision looks at: all of them; of a crowd of strangers now and then a few, by lot."""
        if not self.is_crowded:
            return list(self)
        known = [worker for worker in self if not worker.stranger]
        if any(not worker.obstacle for worker in known) and rng.random() >= STRANGERS_SHARE:
            return known
        few = rng.sample(sorted(self._strangers), STRANGERS_BELIEVED)
        return [*known, *(self._workers[name] for name in few)]

    def drawn(self, count: int, rng: random.Random) -> list[WorkerView]:
        """So many by lot, from each set of models alike: thousands are too many to look at each time."""
        if self._changed:
            self._group()
        each = max(1, count // max(1, len(self._groups)))
        return [worker for group in self._groups for worker in rng.sample(group, min(each, len(group)))]

    def _group(self) -> None:
        groups: dict[tuple[str, ...], list[WorkerView]] = {}
        crowded = self.is_crowded
        for worker in self:
            if crowded and worker.stranger:
                continue
            groups.setdefault(tuple(card.model_id for card in worker.heartbeat.models), []).append(worker)
        self._groups, self._changed = list(groups.values()), False

    def get(self, worker_id: str) -> WorkerView | None:
        return self._workers.get(worker_id)

    def hear(self, beat: Heartbeat, now: float, *, wall: float, named: bool = False, connected: bool = True) -> News:
        """Takes a heartbeat in, received at `now` (loop's clock) and `wall` (unix seconds).

        `named`: it came on the worker's own subject. `connected`: the server knows a connection of its name.
        """
        worker = self._workers.get(beat.worker_id)
        if worker is None:
            return self._take_in(beat, now, wall=wall, named=named, connected=connected)
        if (news := _not_taken(worker, beat, named=named)) is not None:
            return news
        known = worker.heartbeat
        worker.named = named
        if connected:
            self._vouch_for(worker)
        worker.clock.hear(beat.sent_at, wall)
        self.late += now - worker.heard > LATE * worker.patience + worker.pause
        restarted = beat.epoch != known.epoch
        changed = beat.config_digest != known.config_digest
        self._changed = self._changed or beat.models != known.models
        worker.swapped = not restarted and (worker.swapped or _other_models(known, beat))
        worker.heartbeat, worker.heard, worker.assigned_at_beat = beat, now, worker.assigned
        # A heartbeat that crossed a request on its way does not count it; one that follows a word about it does.
        worker.uncounted = [] if restarted else [uncounted for uncounted in worker.uncounted if not uncounted.known]
        worker.said_full = False
        if beat.models != known.models:
            served = {card.model_id for card in beat.models}
            worker.models = {name: view for name, view in worker.models.items() if name in served}
        was_gone = bool(worker.gone)
        worker.gone, worker.silent = STOPPED if beat.state == "stopped" else "", False
        if restarted or changed:
            worker.paused_until, worker.breaker, worker.models = 0.0, CircuitBreaker(), {}
        if restarted or worker.gone:
            return News.VOID
        return News.BACK if was_gone else News.NONE

    def _take_in(self, beat: Heartbeat, now: float, *, wall: float, named: bool, connected: bool) -> News:
        """A worker that was not known."""
        if not connected and len(self._strangers) >= MOST_STRANGERS:
            return News.REFUSED
        worker = self._workers[beat.worker_id] = WorkerView(beat, now, named=named, stranger=not connected)
        if worker.stranger:
            self._strangers.add(beat.worker_id)
        self._changed = True
        worker.clock.hear(beat.sent_at, wall)
        return News.NONE

    def vouch(self, names: Collection[str]) -> None:
        """The server knows connections of these names (`worker_connection_name`)."""
        for worker_id in list(self._strangers):
            worker = self._workers[worker_id]
            if worker_connection_name(worker.heartbeat.backend, worker_id) in names:
                self._vouch_for(worker)

    def took_request(self, worker: WorkerView) -> None:
        """It has claimed a request, or answered it: it is a worker."""
        self._vouch_for(worker)

    def _vouch_for(self, worker: WorkerView) -> None:
        if worker.stranger:
            worker.stranger = False
            self._strangers.discard(worker.worker_id)
            self._changed = True

    def leave(self, worker_id: str, why: str, *, back_by: float = 0.0) -> bool:
        """A worker's connection is gone. Returns whether that is news; its next heartbeat brings it back."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.gone:
            return False
        worker.gone, worker.back_by = why, back_by
        return True

    def all_cut_off(self, now: float) -> bool:
        """Whether all workers, not only one, lost their connections just now: it was the server, and they come back."""
        return sum(now < worker.back_by for worker in self) > 1 and all(worker.gone for worker in self)

    def sweep(self, now: float, every: float) -> list[str]:
        """The workers that went silent since the last sweep. Call it every `every` seconds.

        If this process itself was asleep, or most of the pool seems to fall silent in one instant, no
        worker is declared dead: this Manager is deaf.
        """
        slept = 0.0 if self._swept is None else max(0.0, now - self._swept - every)
        self._swept = now
        if slept > every:
            self.excuse(slept)
        suspect = [m for m in self._workers.values() if self._is_silent(m, now, max(SUSPECT, self.silent_after - 1))]
        silent = [m for m in suspect if self._is_silent(m, now, self.silent_after)]
        if len(suspect) > 1 and len(suspect) > PANIC_SHARE * sum(not m.gone for m in self._workers.values()):
            silent = [m for m in silent if self._is_silent(m, now, 2 * self.silent_after)]
        for worker in silent:
            worker.gone, worker.silent = f"silent for {now - worker.heard:.1f} s", True
        self._forget(now)
        return [worker.worker_id for worker in silent]

    def nothing_heard(self, worker: WorkerView, since: float, now: float) -> bool:
        """Whether a silent worker has not said anything else either since then, for as long as a heart may pause."""
        return now - since > max(self.silent_after * worker.patience, worker.pause)

    def excuse_until(self, then: float) -> None:
        """No worker's silence before `then` counts: all have to find the server again."""
        self._excused_until = then

    def _is_silent(self, worker: WorkerView, now: float, beats: float) -> bool:
        """Whether a worker that is with us has missed so many heartbeats."""
        beat, silent_s = worker.heartbeat, now - max(worker.heard, self._excused_until)
        return not worker.gone and 1000 * silent_s > beats * beat.interval_ms and 1000 * silent_s > beat.pause_ms

    def excuse(self, seconds: float) -> None:
        """This Manager could not listen for so long: no worker's silence in that time counts."""
        for worker in self._workers.values():
            worker.heard += seconds

    def _forget(self, now: float) -> None:
        for worker in [m for m in self._workers.values() if m.gone and now - m.heard > FORGET_AFTER and not m.assigned]:
            del self._workers[worker.worker_id]
            self._strangers.discard(worker.worker_id)
            self._changed = True


def _other_models(before: Heartbeat, now: Heartbeat) -> bool:
    return bool(before.models) and {c.model_id for c in before.models} != {c.model_id for c in now.models}


def _not_taken(worker: WorkerView, beat: Heartbeat, *, named: bool) -> News | None:
    """What a heartbeat tells that changes nothing of the worker; None: it does.

    The first on a worker's own subject counts, whatever was said in its name on the open one before.
    """
    known = worker.heartbeat
    if named and not worker.named:
        return None
    if not worker.gone and worker.named and not named:
        return News.NONE  # the open subject tells nothing of a worker that has its own
    if not worker.gone and beat.backend != known.backend:
        return News.REFUSED
    if not worker.gone and beat.epoch < known.epoch:
        return News.SUPERSEDED
    return News.NONE if beat.epoch == known.epoch and beat.seq <= known.seq else None
