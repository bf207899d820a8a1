"""The models as clients name them: `auto`, `policy:<name>`, the workers' models, and aliases."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import get_args

from client import Roster
from contracts import JsonObject, ModelCard, Policy
from contracts.subjects import Kind
from gateway.dialects import Refused
from gateway.dialects.ollama import LATEST

AUTO, BY_POLICY = "auto", "policy:"
GONE_AFTER = 600.0
"""Seconds without a heartbeat after which a worker's models are unknown. Until then the Manager says what is wrong."""
MOST_LISTED = 20
"""Names that an error lists."""
MayAsk = Callable[[str], bool]
"""Whether the caller may ask for a model of this name."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A name that a client may ask for."""

    name: str
    backend: str
    """The backend of the first worker that serves the model; empty: the mesh chooses a model."""
    since: datetime | None
    """When that worker started."""
    card: ModelCard | None
    """None: the mesh chooses a model."""


class Models:
    def __init__(self, roster: Roster, aliases: Mapping[str, str], unknown_is_auto: bool) -> None:
        self._roster = roster
        self.reconfigure(aliases, unknown_is_auto)

    def reconfigure(self, aliases: Mapping[str, str], unknown_is_auto: bool) -> None:
        """Uses other settings, from the next request on."""
        self._aliases = aliases
        self._unknown_is_auto = unknown_is_auto

    def served(self, now: float) -> list[ServedModel]:
        """Every name, each once. `now`: the loop's clock, in seconds."""
        names = {AUTO: ServedModel(AUTO, "", None, None)}
        names |= {f"{BY_POLICY}{p}": ServedModel(f"{BY_POLICY}{p}", "", None, None) for p in get_args(Policy)}
        for found in self._of_workers(now):
            names.setdefault(found.name, found)
        for name, target in self._aliases.items():
            if not any(sign in name for sign in "*?[") and target in names:
                names.setdefault(name, replace(names[target], name=name))
        return list(names.values())

    def find(self, name: str, now: float) -> ServedModel | None:
        """The model that a client gets for this name, listed or not; None: no worker serves it now."""
        served = {model.name: model for model in self.served(now)}
        target = served.get(name) or served.get(self._target(name) or "")
        if target is None:
            return ServedModel(name, "", None, None) if self._unknown_is_auto else None
        return replace(target, name=name)

    def meant(self, name: str) -> str:
        """The name, without Ollama's tag if it is known only so."""
        bare = name.removesuffix(LATEST)
        return bare if self._named(name) is None and self._named(bare) is not None else name

    def resolve(self, name: str, now: float, may_ask: MayAsk) -> JsonObject:
        """The fields of a request for that name. Raises `Refused` (404), see `unknown`."""
        if (fields := self._named(self.meant(name))) is not None:
            return fields
        if self._unknown_is_auto:
            return {}
        raise self.unknown(name, now, may_ask)

    def check_serves(self, kind: Kind, fields: JsonObject, now: float, may_ask: MayAsk) -> None:
        """Raises `Refused` (404) when the named model is served, but cannot do this kind of request."""
        name = fields.get("model")
        cards = [card for seen in self._roster for card in seen.beat.models if name and card.answers_to(name)]
        if any(card.serves(kind) or not card.capabilities for card in cards) or not cards:
            return
        able = {found.name for found in self._of_workers(now) if found.card and found.card.serves(kind)}
        names = sorted(one for one in able if may_ask(one))
        what = "embed" if kind == "embed" else "chat"
        why = f"The model `{name}` does not {what}; those that do are {', '.join(names[:MOST_LISTED]) or 'none'}"
        raise Refused(why, "model", 404, "model_not_found")

    def unknown(self, name: str, now: float, may_ask: MayAsk) -> Refused:
        """The error for a name that no worker serves; it lists the names that this caller may use."""
        names = [model.name for model in self.served(now) if may_ask(model.name)]
        rest = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
        why = f"The model `{name[:256]}` does not exist; served are {', '.join(names[:MOST_LISTED])}{rest}"
        return Refused(why, "model", 404, "model_not_found")

    def _named(self, name: str) -> JsonObject | None:
        """The fields of a request for a served name or an alias; None: it is neither."""
        if (fields := self._direct(name)) is not None:
            return fields
        if (target := self._target(name)) is None:
            return None
        fields = self._direct(target)
        return {"model": target} if fields is None else fields

    def _target(self, name: str) -> str | None:
        """The model that an alias stands for; None: it is no alias."""
        return next((target for pattern, target in self._aliases.items() if fnmatchcase(name, pattern)), None)

    def _direct(self, name: str) -> JsonObject | None:
        if name == AUTO:
            return {}
        if name.startswith(BY_POLICY) and (policy := name.removeprefix(BY_POLICY)) in get_args(Policy):
            return {"policy": policy}
        known = (card for seen in self._roster for card in seen.beat.models)
        return {"model": name} if any(name in (card.model_id, *card.aliases) for card in known) else None

    def _of_workers(self, now: float) -> Iterator[ServedModel]:
        for seen in self._roster:
            beat = seen.beat
            if beat.state == "stopped" or seen.silent_for(now) is not None:
                continue
            for card in beat.models:
                for name in (card.model_id, *card.aliases):
                    yield ServedModel(name, beat.backend, beat.started_at, card)
