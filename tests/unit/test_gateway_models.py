"""Which model a client gets by the name it gives."""

from typing import Any

import pytest

from client import Roster
from contracts import Heartbeat, ModelCard, utc_now
from gateway.dialects import Refused
from gateway.models import Models

CARD = ModelCard(model_id="llama", capabilities=("chat", "vision"), context_window=100, local=True)
BEAT = Heartbeat(
    worker_id="w-1",
    backend="fake",
    models=(CARD,),
    state="ready",
    inflight=0,
    queued=0,
    capacity=4,
    interval_ms=1000,
    epoch="e1",
    seq=1,
    started_at=utc_now(),
)


def models(aliases: dict[str, str] | None = None, *, unknown_is_auto: bool = False) -> Models:
    roster = Roster()
    roster.hear(BEAT, now=0.0)
    return Models(roster, aliases or {}, unknown_is_auto)


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("auto", {}),
        ("policy:cheapest", {"policy": "cheapest"}),
        ("llama", {"model": "llama"}),
        ("gone", {"model": "gone"}),
    ],
)
@pytest.mark.parametrize(
    ("pattern", "name"), [("claude-*", "claude-opus"), ("small", "small"), ("small", "small:latest")]
)
def test_an_alias_is_what_it_stands_for(target: str, asked: Any, pattern: str, name: str) -> None:
    assert models({pattern: target}).resolve(name, 0.0, lambda _: True) == asked


@pytest.mark.parametrize("target", ["auto", "policy:cheapest", "llama"])
@pytest.mark.parametrize(("pattern", "name"), [("claude-*", "claude-opus"), ("small", "small")])
def test_a_name_that_may_be_asked_for_can_be_looked_up(target: str, pattern: str, name: str) -> None:
    found = models({pattern: target}).find(name, 0.0)
    assert found is not None
    assert found.name == name
    assert found.card == (CARD if target == "llama" else None)


def test_only_what_may_be_asked_for_can_be_looked_up() -> None:
    assert models({"claude-*": "auto"}).find("gpt-5", 0.0) is None
    assert models({"claude-*": "gone"}).find("claude-opus", 0.0) is None
    assert models(unknown_is_auto=True).find("gpt-5", 0.0) is not None
    with pytest.raises(Refused, match="served are auto"):
        models({"claude-*": "auto"}).resolve("gpt-5", 0.0, lambda _: True)
