"""Which models an Ollama's worker serves, and what each can do, as `/api/tags` and `/api/show` tell it.

Looked at again with every health check. A named model that is not installed, is broken, or can neither chat nor embed
is out of service and says why; the others are served. Without names, all that can chat or embed is served.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from contracts import Capability, ModelCard
from workers.base import ModelConfig, out_of_service
from workers.base.provider.chat import tokens
from workers.base.provider.chat_models import chats_by_name, embeds_by_name
from workers.ollama.question import goes_on
from workers.ollama.sdk import ollama

LATEST = ":latest"
"""The tag of a name that has none."""
DEFAULT_WINDOW = 4096
"""What Ollama gives a conversation when nobody sets `num_ctx`."""
UNTOLD: tuple[Capability, ...] = ("logprobs", "prefill", "reasoning")
"""What a model may have without Ollama telling so: the config's word counts."""
CAPABILITIES: dict[str, Capability] = {"tools": "tools", "vision": "vision", "thinking": "reasoning"}
EMBEDDERS = ("bert", "t5encoder", "jina", "nomic")
"""Beginnings and ends of the architectures that only embed; older servers tell no capabilities."""


class Wanted(Protocol):
    """What the config says of the models."""

    @property
    def models(self) -> tuple[ModelConfig, ...]: ...

    @property
    def num_ctx(self) -> int | None: ...

    @property
    def local(self) -> bool: ...


class Catalogue:
    def __init__(self, config: Wanted, probed: Callable[[str], bool | None], default_window: int = 0) -> None:
        """`probed`: what a question to a model of which nothing is told has found out.

        `default_window`: the tokens that the server gives a conversation, as far as the environment tells; else 0.
        """
        self._config = config
        self._probed = probed
        self._installed: dict[str, str] = {}
        """Their digests, by name: another digest is another model of the same name."""
        self._shown: dict[str, ollama.ShowResponse] = {}
        self._default_window = default_window or DEFAULT_WINDOW
        self._given: dict[str, int] = {}
        """The windows with which models were loaded, by name."""
        self.with_logprobs: set[str] = set()
        """Models whose answers brought log-probabilities."""
        self.failures: dict[str, str] = {}
        """Why a model could not be pulled or described, by name."""

    def take(self, installed: Mapping[str, str]) -> None:
        """What is installed there now."""
        for name in [name for name in self._shown if installed.get(name) != self._installed.get(name)]:
            del self._shown[name]
            self._given.pop(name, None)
        self._installed = dict(installed)

    def loaded(self, windows: Mapping[str, int | None]) -> None:
        """The models in the server's memory, each with the window it has there; older servers do not tell it."""
        self._given.update({name: tokens(window, 0) for name, window in windows.items() if tokens(window, 0)})

    @property
    def undescribed(self) -> list[str]:
        """Installed models that are, or may be, served, and have not been described yet."""
        wanted = [self._there(model.name) for model in self._config.models] or self._installed
        return [name for name in wanted if name and name not in self._shown]

    def describe(self, name: str, shown: ollama.ShowResponse) -> None:
        self._shown[name] = shown
        self.failures.pop(name, None)

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models, in the config's order or the server's."""
        if self._config.models:
            return tuple(self._named(model) for model in self._config.models)
        return tuple(self._card(ModelConfig(name=name), shown) for name, shown in self._listed() if self._serves(name))

    @property
    def unknown(self) -> list[ModelCard]:
        """Those of which nothing tells whether they can chat."""
        if self._config.models:
            return []
        untold = [
            (name, shown) for name, shown in self._listed() if self._chats(name) is None and not self._serves(name)
        ]
        return [self._card(ModelConfig(name=name), shown) for name, shown in untold]

    def num_ctx(self, model: ModelConfig | None) -> int | None:
        own = tokens(model.options.get("num_ctx"), 0) if model else 0
        return own or self._config.num_ctx

    def _listed(self) -> list[tuple[str, ollama.ShowResponse]]:
        return [(name, self._shown[name]) for name in self._installed if name in self._shown]

    def _there(self, name: str) -> str | None:
        """What a model is called there; None: it is not installed."""
        return next((one for one in (name, f"{name}:latest") if one in self._installed), None)

    def _named(self, model: ModelConfig) -> ModelCard:
        there = self._there(model.name)
        shown = self._shown.get(there) if there else None
        if there is None or shown is None:
            missing = f"{model.name} is not installed there: ollama pull {model.name}, or set pull_missing: true"
            why = self.failures.get(there or model.name, missing)
            return out_of_service(model.card(local=self._config.local), why)
        card = self._card(model, shown)
        able = shown.capabilities
        useless = bool(able) and not _chats(shown) and not _embeds(model.name, shown)
        return out_of_service(card, f"it cannot chat or embed, only {', '.join(able or ())}") if useless else card

    def _serves(self, name: str) -> bool:
        return _embeds(name, self._shown[name]) or bool(self._chats(name))

    def _chats(self, name: str) -> bool | None:
        told = _chats(self._shown[name])
        told = chats_by_name(name) if told is None else told
        return self._probed(name) if told is None else told

    def _card(self, model: ModelConfig, shown: ollama.ShowResponse) -> ModelCard:
        """The model as Ollama describes it: what it can do, and how long a conversation may be."""
        told = shown.capabilities or ()
        known = {"chat", "stream", "json", *(CAPABILITIES[name] for name in told if name in CAPABILITIES)}
        known.update(capability for capability in model.capabilities if capability in UNTOLD)
        if _embeds(model.name, shown):
            known = {*(known if _chats(shown) else ()), "embed"}
        if goes_on(shown) and "chat" in known:
            known.add("prefill")
        if model.name in self.with_logprobs:
            known.add("logprobs")
        alias = self._other_name(model.name)
        changed = {
            "context_window": self._window(model, shown),
            "capabilities": tuple(sorted(known)),
            "aliases": (*model.aliases, *(one for one in alias if one not in model.aliases)),
        }
        return model.card(local=self._config.local).model_copy(update=changed)

    def _other_name(self, name: str) -> tuple[str, ...]:
        """`tiny` and `tiny:latest` are one model, unless the config has both."""
        tagged = ":" in name.rpartition("/")[2]
        if tagged and not name.endswith(LATEST):
            return ()
        other = name.removesuffix(LATEST) if tagged else f"{name}{LATEST}"
        return () if any(model.name == other for model in self._config.models) else (other,)

    def _window(self, model: ModelConfig, shown: ollama.ShowResponse) -> int:
        """Tokens of one conversation; never more than the model was trained for.

        What is asked for counts, else the Modelfile's, else what the server gave the model when it loaded it last,
        else what it gives when nobody says.
        """
        there = self._there(model.name) or model.name
        window = self.num_ctx(model) or _own_window(shown) or self._given.get(there) or self._usual_window()
        return min(window, _trained_window(shown) or window)

    def _usual_window(self) -> int:
        """What the server gives a model of which nobody says, as seen at one that could have had more."""
        seen = (
            window
            for name, window in self._given.items()
            if (shown := self._shown.get(name)) and not _own_window(shown) and window < _trained_window(shown)
        )
        return next(seen, self._default_window)


def _own_window(shown: ollama.ShowResponse) -> int:
    """Tokens, as the Modelfile says; else 0."""
    told = dict(line.split(None, 1) for line in (shown.parameters or "").splitlines() if len(line.split()) > 1)
    own = str(told.get("num_ctx", "")).strip()
    return int(own) if own.isdecimal() else 0


def _trained_window(shown: ollama.ShowResponse) -> int:
    """Tokens that the model was trained for; 0: it is not told."""
    info = (shown.modelinfo or {}).items()
    return min((tokens(value, 0) for name, value in info if name.endswith(".context_length")), default=0)


def _embeds(name: str, shown: ollama.ShowResponse) -> bool:
    """Whether a model gives vectors. Older servers tell it by the architecture, or not at all."""
    if shown.capabilities:
        return "embedding" in shown.capabilities
    chats = _chats(shown)
    return embeds_by_name(name) if chats is None else not chats


def _chats(shown: ollama.ShowResponse) -> bool | None:
    """Whether a model can chat, as far as the server tells."""
    if shown.capabilities:
        return "completion" in shown.capabilities
    info = shown.modelinfo or {}
    family = str((shown.details.family if shown.details else None) or info.get("general.architecture") or "").lower()
    if any(key.endswith(".pooling_type") for key in info) or family.startswith(EMBEDDERS) or family.endswith("bert"):
        return False
    return True if family else None
