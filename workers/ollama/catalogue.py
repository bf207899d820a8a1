"""Which models an Ollama worker serves, and what each can do, from `/api/tags` and `/api/show`.

Every health check reads them again. A named model that is not installed, is broken, or can neither chat nor embed is
out of service, with the reason; the others are served. If the config names none, every model that can chat or embed is
served.
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
"""The tag of a model name without a tag."""
DEFAULT_WINDOW = 4096
"""Tokens that Ollama gives a conversation by default."""
UNTOLD: tuple[Capability, ...] = ("logprobs", "prefill", "reasoning")
"""Capabilities that Ollama does not report: the config's word counts."""
CAPABILITIES: dict[str, Capability] = {"tools": "tools", "vision": "vision", "thinking": "reasoning"}
EMBEDDERS = ("bert", "t5encoder", "jina", "nomic")
"""Beginnings of the names of architectures that only embed; older servers report no capabilities."""


class Wanted(Protocol):
    """The settings for the models."""

    @property
    def models(self) -> tuple[ModelConfig, ...]: ...

    @property
    def num_ctx(self) -> int | None: ...

    @property
    def local(self) -> bool: ...


class Catalogue:
    def __init__(self, config: Wanted, probed: Callable[[str], bool | None], default_window: int = 0) -> None:
        """`probed`: whether a model can chat, as far as test questions have shown.

        `default_window`: the server's default number of tokens for a conversation, as far as the environment says; else
        0.
        """
        self._config = config
        self._probed = probed
        self._installed: dict[str, str] = {}
        """The installed models' digests, by name: a new digest is another model of the same name."""
        self._shown: dict[str, ollama.ShowResponse] = {}
        self._default_window = default_window or DEFAULT_WINDOW
        self._given: dict[str, int] = {}
        """By model name, the window in tokens that the server gave the model when it was loaded."""
        self.with_logprobs: set[str] = set()
        """Models that have answered with log-probabilities."""
        self.failures: dict[str, str] = {}
        """By model name, why the model could not be pulled or described."""

    def take(self, installed: Mapping[str, str]) -> None:
        """Takes the list of installed models, with their digests."""
        for name in [name for name in self._shown if installed.get(name) != self._installed.get(name)]:
            del self._shown[name]
            self._given.pop(name, None)
        self._installed = dict(installed)

    def loaded(self, windows: Mapping[str, int | None]) -> None:
        """Takes the models in the server's memory, each with its window in tokens; older servers do not report
        windows.
        """
        self._given.update({name: tokens(window, 0) for name, window in windows.items() if tokens(window, 0)})

    @property
    def undescribed(self) -> list[str]:
        """Installed models that may be served and are not described yet."""
        wanted = [self._there(model.name) for model in self._config.models] or self._installed
        return [name for name in wanted if name and name not in self._shown]

    def describe(self, name: str, shown: ollama.ShowResponse) -> None:
        self._shown[name] = shown
        self.failures.pop(name, None)

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models, in the order of the config or of the server."""
        if self._config.models:
            return tuple(self._named(model) for model in self._config.models)
        return tuple(self._card(ModelConfig(name=name), shown) for name, shown in self._listed() if self._serves(name))

    @property
    def unknown(self) -> list[ModelCard]:
        """Models of which neither the server nor the name nor a test question says whether they can chat."""
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
        """The installed name of a model; None: it is not installed."""
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
        """The model's card from Ollama's description: its capabilities, and the length of a conversation."""
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
        """The model's other name: `tiny` and `tiny:latest` are one model, unless the config has both."""
        tagged = ":" in name.rpartition("/")[2]
        if tagged and not name.endswith(LATEST):
            return ()
        other = name.removesuffix(LATEST) if tagged else f"{name}{LATEST}"
        return () if any(model.name == other for model in self._config.models) else (other,)

    def _window(self, model: ModelConfig, shown: ollama.ShowResponse) -> int:
        """Tokens of one conversation, never more than the model was trained for.

        The config's number counts, else the Modelfile's, else what the server gave the model when it was last loaded,
        else the server's default.
        """
        there = self._there(model.name) or model.name
        window = self.num_ctx(model) or _own_window(shown) or self._given.get(there) or self._usual_window()
        return min(window, _trained_window(shown) or window)

    def _usual_window(self) -> int:
        """The server's default window, as seen at a loaded model that could have had a larger one."""
        seen = (
            window
            for name, window in self._given.items()
            if (shown := self._shown.get(name)) and not _own_window(shown) and window < _trained_window(shown)
        )
        return next(seen, self._default_window)


def _own_window(shown: ollama.ShowResponse) -> int:
    """Tokens of a conversation in the Modelfile; 0: it has no number."""
    told = dict(line.split(None, 1) for line in (shown.parameters or "").splitlines() if len(line.split()) > 1)
    own = str(told.get("num_ctx", "")).strip()
    return int(own) if own.isdecimal() else 0


def _trained_window(shown: ollama.ShowResponse) -> int:
    """Tokens of the longest conversation that the model was trained for; 0: unknown."""
    info = (shown.modelinfo or {}).items()
    return min((tokens(value, 0) for name, value in info if name.endswith(".context_length")), default=0)


def _embeds(name: str, shown: ollama.ShowResponse) -> bool:
    """Whether a model gives vectors. For older servers, the architecture or the name decides."""
    if shown.capabilities:
        return "embedding" in shown.capabilities
    chats = _chats(shown)
    return embeds_by_name(name) if chats is None else not chats


def _chats(shown: ollama.ShowResponse) -> bool | None:
    """Whether a model can chat, as far as the server says; None: unknown."""
    if shown.capabilities:
        return "completion" in shown.capabilities
    info = shown.modelinfo or {}
    family = str((shown.details.family if shown.details else None) or info.get("general.architecture") or "").lower()
    if any(key.endswith(".pooling_type") for key in info) or family.startswith(EMBEDDERS) or family.endswith("bert"):
        return False
    return True if family else None
