"""How long an answer may be silent: configs and what was learned in, milliseconds out."""

import pytest

from contracts import InferenceRequest, ModelCard, SilenceOk
from workers.base import BackendConfig, Job, ModelConfig
from workers.base.interface.discovery import discover
from workers.base.interface.silence import ANSWERS, MODELS, Silence, SilenceHistory, silence_ok

CONFIG = BackendConfig(first_token_timeout=10, next_token_timeout=4)
PLAIN, REASONING = ModelConfig(name="m"), ModelConfig(name="m", reasons=True)
OWN = ModelConfig(name="m", reasons=True, first_token_timeout=7, next_token_timeout=3)


@pytest.mark.parametrize(
    ("model", "loads", "usual", "first", "following"),
    [
        (PLAIN, False, Silence(), 10, 4),
        (REASONING, False, Silence(), 50, 20),
        (PLAIN, True, Silence(), 50, 4),
        (REASONING, True, Silence(), 50, 20),
        (OWN, True, Silence(), 7, 3),
        (PLAIN, False, Silence(1, 0.5), 10, 4),
        (PLAIN, False, Silence(6, 2), 24, 8),
        (PLAIN, False, Silence(60, 60), 100, 40),
        (OWN, False, Silence(6, 2), 24, 8),
    ],
    ids=[
        "config",
        "reasons",
        "loads",
        "both",
        "its own",
        "learned less",
        "learned more",
        "learned too much",
        "extended",
    ],
)
def test_the_longest_of_what_is_known_counts(
    model: ModelConfig, loads: bool, usual: Silence, first: float, following: float
) -> None:
    allowed = silence_ok(CONFIG, model, loads=loads, usual=usual)
    assert allowed == SilenceOk(first_token=first * 1000, next_token=following * 1000)


@pytest.mark.parametrize(
    ("model", "loads", "usual", "tokens", "first"),
    [
        (PLAIN, False, Silence(), 8192, 10),
        (PLAIN, False, Silence(), 16_384, 20),
        (PLAIN, False, Silence(), 24_576, 30),
        (PLAIN, False, Silence(), 10_000_000, 100),
        (PLAIN, True, Silence(), 16_384, 100),
        (OWN, False, Silence(), 16_384, 14),
        (PLAIN, False, Silence(20), 16_384, 80),
        (PLAIN, False, Silence(1), 65_536, 80),
        (PLAIN, False, Silence(60), 10_000_000, 100),
    ],
)
def test_a_long_prompt_is_read_for_longer_before_the_first_token_only(
    model: ModelConfig, loads: bool, usual: Silence, tokens: int, first: float
) -> None:
    allowed = silence_ok(CONFIG, model, loads=loads, usual=usual, prompt_tokens=tokens)
    assert allowed.first_token == first * 1000
    assert allowed.next_token == silence_ok(CONFIG, model, loads=loads, usual=usual).next_token


@pytest.mark.parametrize("name", ["anthropic", "gemini", "local", "ollama", "openai"])
def test_half_a_minute_of_silence_is_normal_everywhere(name: str) -> None:
    folder = discover()[name]
    for config in (folder.config(), folder.load().config_class()):
        allowed = silence_ok(config, ModelConfig(name="m"))
        assert allowed.first_token > 4 * 25_000
        assert allowed.next_token > 2 * 20_000


def test_a_backend_allows_more_silence_for_a_long_prompt() -> None:
    folder = discover()["simulated"]
    backend = folder.load()(folder.load().config_class(first_token_timeout=10, models=(PLAIN,)))
    card = ModelCard(model_id="m", context_window=1 << 20, local=True)
    short, long = (Job(InferenceRequest(prompt="word " * count), card, 10) for count in (10, 16_384))
    assert backend.patience(short).first_token == 10_000
    assert 24_000 < backend.patience(long).first_token < 26_000


def test_the_rare_silence_of_one_answer_in_a_hundred_does_not_count() -> None:
    history = SilenceHistory()
    for number in range(1, 101):
        history.learn("m", Silence(number, number / 2))
    assert history.usual("m") == Silence(99, 49.5)
    assert history.usual("another") == Silence()


def test_what_is_remembered_is_bounded_and_of_late() -> None:
    history = SilenceHistory()
    history.learn("m", Silence(1000))
    for _ in range(ANSWERS):
        history.learn("m", Silence(1))
    assert history.usual("m") == Silence(1)
    for number in range(MODELS):
        history.learn(f"m{number}", Silence(1))
    assert history.usual("m") == Silence()
    assert history.usual("m0") == Silence(1)
