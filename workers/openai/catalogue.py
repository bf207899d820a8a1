"""Which models a worker serves: those that its config names, or all in its server's list that can chat or embed.

Every health check reads the list again, so new models are served and removed ones are not. A server may answer to names
that it does not list, so a named model is missing only if it was listed before.
"""

from collections.abc import Sequence

import structlog
from openai.types import Model

from contracts.base import is_model_name
from workers.base import ModelConfig
from workers.base.provider.chat_models import Prober
from workers.openai.listing import chats, described, embeds

log = structlog.get_logger(__name__)

MOST_MODELS = 50
GONE = "its server does not list it any more"


class Catalogue:
    def __init__(self, named: Sequence[ModelConfig], prober: Prober | None) -> None:
        """`named`: empty when every listed model that can chat or embed is served. `prober` None: test questions cost
        money, so none are sent.
        """
        self._named = tuple(named)
        self._prober = prober
        self._seen: set[str] = set()
        self._left_out: set[str] = set()
        self._listed: Sequence[Model] = ()
        self.models: tuple[ModelConfig, ...] = self._named
        self.missing: frozenset[str] = frozenset()
        """Names of models that are out of service."""
        self.unknown: tuple[ModelConfig, ...] = ()
        """Models of which it is unknown whether they can chat."""

    @property
    def to_ask(self) -> tuple[ModelConfig, ...]:
        """Models that may get a test question about chat."""
        return self.unknown if self._prober is not None else ()

    @property
    def in_service(self) -> bool:
        return any(model.name not in self.missing for model in self.models)

    def take(self, listed: Sequence[Model]) -> None:
        """Takes the server's list of models."""
        self._listed = listed
        usable = {model.id: model for model in listed}
        if self._named:
            self.missing = frozenset(m.name for m in self._named if m.name in self._seen and m.name not in usable)
            self._seen.update(usable)
            return
        known = {name: self._chats(model) for name, model in usable.items()}
        able = [name for name, can in known.items() if can or embeds(usable[name])]
        before = [model.name for model in self.models if model.name in able]
        served = list(dict.fromkeys([*before, *able]))[:MOST_MODELS]
        self.models = tuple(described(usable[name]) for name in served)
        unknown = [name for name, can in known.items() if can is None and name not in able]
        self.unknown = tuple(described(usable[name]) for name in unknown[:MOST_MODELS])
        self._tell_left_out(set(usable).difference(served))

    def again(self) -> None:
        """Takes the same list again, after test questions have shown more."""
        self.take(self._listed)

    def _chats(self, model: Model) -> bool | None:
        told = chats(model)
        return self._prober.chats(model.id) if told is None and self._prober is not None else told

    def _tell_left_out(self, names: set[str]) -> None:
        """Logs each left-out model once."""
        if new := names - self._left_out:
            log.warning(
                "models_left_out", models=sorted(new)[:20], count=len(new), cure="name those that can chat or embed"
            )
        self._left_out = names


def is_named(model: object) -> bool:
    """Whether an entry of the list can be served: a broken entry does not stop the others."""
    return is_model_name(getattr(model, "id", None))
