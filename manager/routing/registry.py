"""The workers of the mesh, from their heartbeats and departures.

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
"""Workers without a connection of their name at the server ("strangers") that are treated as real. When there are more,
most of them are made up.
"""
MOST_STRANGERS = 200
"""Strangers known at once: an attacker who makes up ten thousand ids costs the Manager no more than these."""
STRANGERS_SHARE = 0.1
"""Share of the decisions in which some of a crowd of strangers take part beside known workers."""
FORGET_AFTER = 60.0
"""Seconds of silence after which a worker leaves the list."""
SUSPECT = 1.2
"""Heartbeat intervals of silence after which a worker counts as suspect, at least: many suspects at once mean that the
Manager itself is deaf.
"""
RETURN_WITHIN = 4.25
"""Seconds within which workers that lost their server are back: the longest pause between two tries to connect, and one
heartbeat.
"""
STOPPED = "stopped"
"""Why a worker is gone that left in order."""
LATE = 1.5
"""Heartbeat intervals after which the next heartbeat counts as late."""
PANIC_SHARE = 0.5
"""Share of the workers: when more of them go silent at once, probably this Manager is deaf."""


class News(Enum):
    """What a heartbeat shows beside the worker's state."""

    NONE = "none"
    VOID = "void"
    """The worker restarted or left: its requests will not come back."""
    BACK = "back"
    """The worker counted as gone and is back, without a restart: another worker may have its requests by now."""
    SUPERSEDED = "superseded"
    """An older process with this worker id still sends heartbeats."""
    REFUSED = "refused"
    """The heartbeat is refused: it comes from another backend than the known worker of this id, or there are too many
    strangers.
    """


@dataclass(slots=True, eq=False)
class UncountedRequest:
    """A request that was sent to a worker and that the worker's last heartbeat may not count yet."""

    tokens: float
    """Tokens that the request may use of the worker's limit."""
    known: bool = False
    """The worker has reported something about the request, or never will: its next heartbeat counts it."""


class Probe(NamedTuple):
    """Which breakers wait for the outcome of a request: the worker's, and that of the model at this worker."""

    worker: bool = False
    model: bool = False


NO_PROBE = Probe()


@dataclass(slots=True, eq=False)
class ModelView:
    """One model at one worker."""

    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    paused_until: float = 0.0
    """The model gets no request before this time (loop's clock): it has a rate limit of its own."""


@dataclass(slots=True, eq=False)
class WorkerView:
    """One worker, as this Manager knows it."""

    heartbeat: Heartbeat
    heard: float
    gone: str = ""
    """Why the worker counts as gone; empty while it is here."""
    back_by: float = 0.0
    """The worker lost its connection and may be back until this time (loop's clock)."""
    assigned: int = 0
    """This Manager's own requests that are at this worker now."""
    assigned_at_beat: int = 0
    paused_until: float = 0.0
    """The worker gets no request before this time (loop's clock): it is overloaded, or its whole account has a rate
    limit.
    """
    models: dict[str, "ModelView"] = field(default_factory=dict)
    """The state of each of the worker's models, as soon as there is something to record."""
    uncounted: list[UncountedRequest] = field(default_factory=list)
    """Requests that this Manager sent and that the worker's last heartbeat probably does not count."""
    answered: int = 0
    failed: int = 0
    said_full: bool = False
    """The worker refused a request as full and has reported nothing since: other Managers may send there too."""
    silent: bool = False
    """The worker counts as gone because its heartbeats stopped: it may be deaf, frozen or cut off, and still alive."""
    named: bool = False
    """The worker sends on a subject of its own, on which the server lets no other backend's worker publish."""
    stranger: bool = False
    """The server knows no connection of the worker's name, and the worker has never taken a request: it may be made
    up.
    """
    swapped: bool = False
    """The worker serves other models than at its start."""
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    """The breaker for failures of the whole worker: it does not claim, its provider cannot be reached, its key is
    refused.
    """
    clock: ClockOffset = field(default_factory=ClockOffset)

    @property
    def worker_id(self) -> str:
        return self.heartbeat.worker_id

    @property
    def serves_since(self) -> datetime | None:
        """Since when the worker serves its present models. None: unknown, because they changed after its start."""
        return None if self.swapped else self.heartbeat.started_at

    @property
    def is_lost(self) -> bool:
        """Whether the worker is gone without having left in order."""
        return self.gone not in ("", STOPPED)

    @property
    def load(self) -> int:
        """Requests that run or wait at the worker: those that its heartbeat counts, plus those that this Manager sent
        since.
        """
        beat = self.heartbeat
        return max(self.assigned, beat.inflight + beat.queued + self.assigned - self.assigned_at_beat)

    @property
    def free(self) -> int:
        return max(0, self.heartbeat.capacity - self.load)

    def model(self, model_id: str) -> "ModelView":
        """The state of one of the worker's models."""
        return self.models.setdefault(model_id, ModelView())

    def failing(self, model_id: str, now: float, *, include_unclaimed: bool = False) -> str:
        """Why the worker, or this model at it, gets no request after failures; empty when it may be asked.

        `include_unclaimed`: also ask a worker whose failures do not prove that it is ill.
        """
        model = self.models.get(model_id)
        for what, breaker in (("", self.breaker), (f"{model_id} is ", model.breaker if model else None)):
            if breaker is None or breaker.admits(now) or (include_unclaimed and breaker.is_unproved):
                continue
            return f"{what}failing ({breaker.why}), tried again in {breaker.rest(now):.1f} s"
        return ""

    @property
    def is_failing(self) -> bool:
        """Whether the worker, or every model it serves, has an open breaker."""
        cards = self.heartbeat.models
        opened = [card for card in cards if (m := self.models.get(card.model_id)) is not None and m.breaker.is_open]
        return self.breaker.is_open or (bool(cards) and len(opened) == len(cards))

    def pause_left(self, model_id: str, now: float) -> float:
        """Seconds until the pauses of the worker and of this model are over; 0 or less when there is none."""
        model = self.models.get(model_id)
        return max(self.paused_until, model.paused_until if model else 0.0) - now

    def leave_alone(self, model_id: str | None, until: float) -> None:
        """Sends no request to the model before `until` (loop's clock); with None, none to the whole worker."""
        if model_id is None:
            self.paused_until = until
        else:
            self.model(model_id).paused_until = until

    def sent(self, model_id: str) -> Probe:
        """Records that a request was sent. Returns the breakers that it probes: pass them on when it ends."""
        model = self.models.get(model_id)
        return Probe(worker=self.breaker.sent(), model=model.breaker.sent() if model else False)

    def succeeded(self, model_id: str, now: float, probe: Probe) -> None:
        """Records that a model answered at this worker."""
        self.breaker.succeeded(now, probe=probe.worker)
        if (model := self.models.get(model_id)) is not None:
            model.breaker.succeeded(now, probe=probe.model)

    def model_failed(self, model_id: str, now: float, why: str, probe: Probe) -> None:
        """Records that a model failed; the worker itself worked."""
        self.breaker.succeeded(now, probe=probe.worker)
        self.model(model_id).breaker.failed(now, why, probe=probe.model)

    def worker_failed(self, model_id: str, now: float, why: str, probe: Probe) -> None:
        """Records that the worker failed; this shows nothing about the model."""
        self.breaker.failed(now, why, probe=probe.worker)
        self.model(model_id).breaker.withdrawn(probe=probe.model)

    def nothing_learned(self, model_id: str, probe: Probe) -> None:
        """Records a request whose end shows nothing about the worker: the request itself was at fault, or was
        cancelled.
        """
        self.breaker.withdrawn(probe=probe.worker)
        self.model(model_id).breaker.withdrawn(probe=probe.model)

    def forgiven(self, model_id: str, now: float, probe: Probe) -> None:
        """Takes the last failure back: the worker answered that request after all."""
        self.breaker.forgiven(now, probe=probe.worker)
        self.model(model_id).breaker.forgiven(now, probe=probe.model)

    def spend(self, tokens: float) -> UncountedRequest:
        """Counts a request of about `tokens` tokens against the worker's limits."""
        uncounted = UncountedRequest(tokens)
        self.uncounted.append(uncounted)
        return uncounted

    def short_of(self, tokens: float) -> str:
        """Which of the worker's limits does not allow a request of `tokens` tokens now: "requests" or "tokens"; empty
        when all allow it.
        """
        rate = self.heartbeat.rate
        if rate is None:
            return ""
        if rate.rpm_left is not None and rate.rpm_left <= len(self.uncounted):
            return "requests"
        if rate.tpm_left is not None and rate.tpm_left - sum(uncounted.tokens for uncounted in self.uncounted) < tokens:
            return "tokens"
        return ""

    def rested_at(self) -> float:
        """When a used-up limit may have filled up again (loop's clock): the time that the worker reports, but at most
        one heartbeat interval after the last heartbeat.
        """
        rate = self.heartbeat.rate
        resets = None if rate is None else rate.resets_in_ms
        return self.heard + (self.patience if not resets else min(self.patience, resets / 1000))

    @property
    def idle(self) -> bool:
        """Whether the worker is less than half full: it has time for additional work."""
        return not self.heartbeat.queued and self.load * 2 < self.heartbeat.capacity

    @property
    def all_local(self) -> bool:
        """Whether all models of the worker are local and send no bill."""
        return all(card.local for card in self.heartbeat.models)

    @property
    def patience(self) -> float:
        """Seconds of one heartbeat interval."""
        return self.heartbeat.interval_ms / 1000

    @property
    def pause(self) -> float:
        """Seconds for which the worker announced that it may be silent."""
        return self.heartbeat.pause_ms / 1000

    @property
    def obstacle(self) -> str:
        """Why the worker cannot take any request; empty when it can."""
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
        """Heartbeats that came late."""
        self._swept: float | None = None
        self._excused_until = 0.0
        self._groups: list[list[WorkerView]] = []
        self._changed = True
        """Whether the workers, or the models they serve, have changed since the groups were made."""
        self._strangers: set[str] = set()

    def __iter__(self) -> Iterator[WorkerView]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def is_crowded(self) -> bool:
        """Whether there are more strangers than can be real."""
        return len(self._strangers) > STRANGERS_BELIEVED

    def pool(self, rng: random.Random) -> list[WorkerView]:
        """The workers that a decision looks at: all of them. With a crowd of strangers, the known workers, and only now
        and then a few strangers by lot.
        """
        if not self.is_crowded:
            return list(self)
        known = [worker for worker in self if not worker.stranger]
        if any(not worker.obstacle for worker in known) and rng.random() >= STRANGERS_SHARE:
            return known
        few = rng.sample(sorted(self._strangers), STRANGERS_BELIEVED)
        return [*known, *(self._workers[name] for name in few)]

    def drawn(self, count: int, rng: random.Random) -> list[WorkerView]:
        """About `count` workers by lot, equally many from each set of models: thousands are too many to look at each
        time.
        """
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
        """Takes in a heartbeat, received at `now` (loop's clock) and `wall` (unix seconds).

        `named`: the heartbeat came on the worker's own subject. `connected`: the server knows a connection of the
        worker's name.
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
        """Adds a new worker, unless there are too many strangers."""
        if not connected and len(self._strangers) >= MOST_STRANGERS:
            return News.REFUSED
        worker = self._workers[beat.worker_id] = WorkerView(beat, now, named=named, stranger=not connected)
        if worker.stranger:
            self._strangers.add(beat.worker_id)
        self._changed = True
        worker.clock.hear(beat.sent_at, wall)
        return News.NONE

    def vouch(self, names: Collection[str]) -> None:
        """Records that the server knows connections of these names (`worker_connection_name`)."""
        for worker_id in list(self._strangers):
            worker = self._workers[worker_id]
            if worker_connection_name(worker.heartbeat.backend, worker_id) in names:
                self._vouch_for(worker)

    def took_request(self, worker: WorkerView) -> None:
        """Records that the worker has claimed or answered a request: it is no stranger."""
        self._vouch_for(worker)

    def _vouch_for(self, worker: WorkerView) -> None:
        if worker.stranger:
            worker.stranger = False
            self._strangers.discard(worker.worker_id)
            self._changed = True

    def leave(self, worker_id: str, why: str, *, back_by: float = 0.0) -> bool:
        """Records that a worker is gone. Returns whether this is news. The worker's next heartbeat brings it back."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.gone:
            return False
        worker.gone, worker.back_by = why, back_by
        return True

    def all_cut_off(self, now: float) -> bool:
        """Whether all workers, more than one, have just lost their connections: the server failed, and they come
        back.
        """
        return sum(now < worker.back_by for worker in self) > 1 and all(worker.gone for worker in self)

    def sweep(self, now: float, every: float) -> list[str]:
        """Returns the workers that went silent since the last sweep. Call it every `every` seconds.

        If this process was asleep, or more than `PANIC_SHARE` of the workers fall silent at once, this Manager is
        probably deaf: then it counts its own sleep as no silence, and a worker is gone only after twice the usual
        silence.
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
        """Whether a silent worker has sent nothing since `since` either, for as long as its heartbeats may pause."""
        return now - since > max(self.silent_after * worker.patience, worker.pause)

    def excuse_until(self, then: float) -> None:
        """Ignores every worker's silence before `then`: all workers have to find the server again."""
        self._excused_until = then

    def _is_silent(self, worker: WorkerView, now: float, beats: float) -> bool:
        """Whether a worker that is here has missed this many heartbeats."""
        beat, silent_s = worker.heartbeat, now - max(worker.heard, self._excused_until)
        return not worker.gone and 1000 * silent_s > beats * beat.interval_ms and 1000 * silent_s > beat.pause_ms

    def excuse(self, seconds: float) -> None:
        """Ignores the last `seconds` of every worker's silence: this Manager could not listen."""
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
    """The news of a heartbeat that changes nothing of the worker. None: the heartbeat counts.

    The first heartbeat on a worker's own subject counts, whatever came in its name on the open subject before.
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
