"""Conversations go back to whoever holds them in its cache, as long as that is worth the wait."""

import random
from dataclasses import replace

import pytest

from contracts import InferenceRequest, ModelCard
from contracts.tokens import prompt_tokens
from manager.config import DEFAULT_POLICIES
from manager.routing.estimates import Estimates
from manager.routing.prefix_cache import FORGOTTEN, HALF_GONE, SHORTEST, PrefixCache, openings
from manager.routing.query import RoutingQuery
from manager.routing.ranking import rank
from manager.routing.registry import WorkerView
from tests.unit.test_ranking import winner, worker
from workers.base.interface.backend import Job
from workers.base.interface.config import BackendConfig
from workers.base.rate_limits.limits import Limits

LONG = "a long story that goes on and on " * 60
"""About 500 tokens."""


def conversation(*turns: str, system: str = "") -> InferenceRequest:
    roles = ("user", "assistant")
    messages = tuple({"role": roles[n % 2], "content": text} for n, text in enumerate(turns))
    return InferenceRequest.model_validate({"messages": messages, "context": {"system": system} if system else {}})


def test_who_has_answered_holds_the_conversation_and_its_own_answer() -> None:
    affinity = PrefixCache()
    affinity.answered("w", openings(conversation(LONG)), "An answer." * 20, 100.0)
    next_turn = openings(conversation(LONG, "An answer." * 20, "And then?"))
    assert affinity.cached(next_turn, 100.0) == {"w": next_turn[1].tokens}
    said_otherwise = openings(conversation(LONG, "Another answer." * 20, "And then?"))
    assert affinity.cached(said_otherwise, 100.0) == {"w": said_otherwise[0].tokens}
    assert affinity.cached(openings(conversation("x" + LONG, "An answer.", "And then?")), 100.0) == {}


@pytest.mark.parametrize("text", ["物語はまだ続きます。" * 60, "🦆🧑\u200d🚀" * 100, "Ääkköset " * 80, LONG, "x"])
def test_a_whole_conversation_is_worth_its_prompt_s_tokens_in_any_script(text: str) -> None:
    """One estimate for the prompt, the cache and the limits: the bytes of all of it."""
    asked = conversation(text, "はい", text, system=text)
    whole, prompt = openings(asked)[-1].tokens, prompt_tokens(asked)
    assert whole == prompt == RoutingQuery.of(asked).tokens_in
    card = ModelCard(model_id="m", context_window=8192, local=True)
    assert Limits(BackendConfig()).need(Job(asked, card, 10)).estimate == prompt
    cache = PrefixCache()
    cache.answered("w", openings(asked), "", 0.0)
    assert cache.cached(openings(asked), 0.0) == ({"w": prompt} if prompt >= SHORTEST else {})


def test_a_japanese_conversation_has_about_a_token_for_each_character() -> None:
    text = "吾輩は猫である。名前はまだ無い。" * 20
    assert 0.6 * len(text) < openings(conversation(text))[-1].tokens < 1.2 * len(text)


def test_a_common_system_text_is_held_by_everybody_who_read_it() -> None:
    affinity = PrefixCache()
    for name in ("v", "w"):
        affinity.answered(name, openings(conversation(f"from {name}", system=LONG)), "Yes.", 100.0)
    asked = openings(conversation("something else", system=LONG))
    assert affinity.cached(asked, 100.0) == {"v": asked[0].tokens, "w": asked[0].tokens}


def test_it_is_forgotten_with_time_and_with_the_other_conversations() -> None:
    affinity = PrefixCache()
    known = openings(conversation(LONG))
    affinity.answered("w", known, "", 0.0)
    assert affinity.cached(known, HALF_GONE) == {"w": known[0].tokens / 2}
    assert affinity.cached(known, FORGOTTEN) == {}


def test_only_a_few_holders_are_remembered_the_latest() -> None:
    affinity = PrefixCache()
    known = openings(conversation(LONG))
    for number in range(9):
        affinity.answered(f"w{number}", known, "", float(number))
    assert set(affinity.cached(known, 9.0)) == {"w5", "w6", "w7", "w8"}


def equally_quick(*names: str) -> Estimates:
    """Two seconds to read the story, one to answer."""
    estimates = Estimates()
    for name in names:
        for _ in range(5):
            estimates.at(name, "m").took(500, 100, 3.0, 2.0)
    return estimates


def picked(*workers: WorkerView, cached: dict[str, float]) -> set[str]:
    """Who wins, whatever the lot says."""
    question = replace(RoutingQuery.of(conversation(LONG, "Yes.", "And then?")), cached=cached)
    estimates = equally_quick(*(one.worker_id for one in workers))
    weights = DEFAULT_POLICIES["balanced"]
    rankings = (rank(question, workers, estimates, weights, now=0.0, rng=random.Random(seed)) for seed in range(8))
    return {winner(ranking) for ranking in rankings}


def test_a_conversation_goes_back_to_the_worker_that_has_it_cached() -> None:
    workers = [worker("other"), worker("holder")]
    assert picked(*workers, cached={}) == {"other", "holder"}
    assert picked(*workers, cached={"holder": 450.0}) == {"holder"}


def test_but_not_when_that_one_is_much_busier() -> None:
    assert picked(worker("other"), worker("holder", inflight=4), cached={"holder": 450.0}) == {"other"}


def test_a_workers_report_of_its_cache_replaces_the_assumption() -> None:
    record = Estimates().at("w", "m")
    hoped = record.kept.mean
    for _ in range(20):
        record.kept.learn(0.0)
    assert record.kept.mean < hoped / 3


def test_time_saved_by_a_cache_is_not_taken_for_speed() -> None:
    """Who has answered the same conversation over and over is as quick with a new one as it was."""
    estimates = Estimates()
    record = estimates.at("w", "m")
    for _ in range(20):
        record.took(500, 100, 3.0, 2.0)
    before = record.seconds(500, 100)
    read = 500 - 450  # the rest was in its cache, so it took less
    for _ in range(20):
        record.took(read, 100, 1.0 + 2.0 * (read + 200) / 700, 2.0 * (read + 200) / 700)
    assert record.seconds(500, 100) == pytest.approx(before)
