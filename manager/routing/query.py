"""What the Manager asks of routing, and the candidates for it. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import inf
from typing import NamedTuple

from contracts import Capability, ModelCard, Request
from contracts.tokens import longest_text_tokens, prompt_tokens
from manager.routing.prefix_cache import Opening, openings
from manager.routing.registry import WorkerView

NO_MODEL = ModelCard.model_construct(model_id="", context_window=0, capabilities=(), local=True)
"""Stands for the models of a worker that has not announced any yet. No worker can announce a model with this name."""


class Wants(NamedTuple):
    """What a worker has to serve before a request may go there at all. Requests that want the same wait together."""

    model: str | None = None
    backend: str | None = None
    needs: frozenset[Capability] = frozenset()
    local_only: bool = False

    def are_served_by(self, worker: WorkerView) -> bool:
        """Whether a model of the worker serves them, in whatever state it is."""
        beat = worker.heartbeat
        if self.backend is not None and self.backend != beat.backend:
            return False
        return any(self._are_served_with(card) for card in beat.models)

    def _are_served_with(self, card: ModelCard) -> bool:
        if self.model is not None and not card.answers_to(self.model):
            return False
        return self.needs.issubset(card.capabilities) and (card.local or not self.local_only)

    def may_share_with(self, other: "Wants") -> bool:
        """Whether one worker may be what both want, as far as their names for it tell."""
        models, backends = (self.model, other.model), (self.backend, other.backend)
        return all(None in names or names[0] == names[1] for names in (models, backends))


ANYTHING = Wants()


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """One model at one worker."""

    worker: WorkerView
    card: ModelCard


def choices(workers: Iterable[WorkerView]) -> list[Choice]:
    """Every model of every worker."""
    return [Choice(worker, card) for worker in workers for card in worker.heartbeat.models or (NO_MODEL,)]


@dataclass(frozen=True, slots=True)
class Excluded:
    """Workers, and models at a worker, that are not asked."""

    workers: frozenset[str] = frozenset()
    """Worker ids."""
    models: frozenset[tuple[str, str]] = frozenset()
    """Pairs of worker id and model id."""

    def has(self, worker_id: str, model_id: str) -> bool:
        return worker_id in self.workers or (worker_id, model_id) in self.models


NONE_EXCLUDED = Excluded()


@dataclass(frozen=True, slots=True)
class RoutingQuery:
    """What routing needs to know of a request and of its attempts so far."""

    request: Request
    tokens_in: int
    """Tokens of the prompt, as the Manager estimates them."""
    needs: frozenset[Capability]
    excluded: Excluded = NONE_EXCLUDED
    """The workers, and the models at a worker, that were tried already."""
    left_s: float = inf
    """Seconds until the request's deadline."""
    waiting: int = 0
    """Requests that wait for a place ahead of this one."""
    has_queued: bool = False
    """The request has waited in the queue already."""
    spent: Decimal = Decimal(0)
    """US dollars that the request's earlier attempts have probably cost."""
    unaffordable: frozenset[str] = frozenset()
    """Models whose budget has too little left for the request."""
    openings: tuple[Opening, ...] = ()
    """The openings of the conversation, by which a worker that has it in its cache is found."""
    cached: Mapping[str, float] = field(default_factory=dict)
    """By worker, tokens of the prompt that it probably still has in its cache."""
    at_least: int = 0
    """Tokens of the prompt, as counted by a worker whose model's context window was too small for it."""
    include_full: bool = False
    """No other worker was found: workers that refused the request as full may be waited for."""
    include_unclaimed: bool = False
    """No worker at all was found: workers whose breaker opened only because they were slow to claim, or declined, may
    be asked.
    """
    known_only: bool = False
    """Unknown workers were asked in vain: only workers with a connection that the server knows, or that have taken a
    request, are asked.
    """
    unsure: frozenset[str] = frozenset()
    """Models that have answered this request with too little confidence."""
    confidence: float = 0.0
    """The highest confidence among those answers, 0..1."""
    other_model_at_it: bool = False
    """A model that is no stand-in works on the request, or has answered it."""
    longest_text: int | None = None
    """Tokens of the longest text, when the model reads each text by itself. None: the model reads the whole prompt at
    once.
    """

    @classmethod
    def of(cls, request: Request, excluded: Iterable[str] = ()) -> "RoutingQuery":
        """The query of a request without attempts. `excluded`: ids of workers that are not asked."""
        apart = Excluded(workers=frozenset(excluded))
        known = openings(request)
        return cls(
            request,
            known[-1].tokens if known else prompt_tokens(request),
            request.needs,
            apart,
            openings=known,
            longest_text=longest_text_tokens(request),
        )

    @property
    def wants(self) -> Wants:
        """By which the request is called when a worker has a free place."""
        request = self.request
        return Wants(request.model, request.backend, self.needs, request.policy == "local_only")

    @property
    def read_at_once(self) -> int:
        """Tokens that have to fit into a context window."""
        return self.tokens_in if self.longest_text is None else self.longest_text

    @property
    def names_its_model(self) -> bool:
        """Whether the caller names the model or backend that has to answer."""
        return self.request.model is not None or self.request.backend is not None
