"""What every backend promises, asked of every backend that can be asked here.

One with a stand-in provider (`providers.py`) is asked through that; any other one is asked as it stands, when
it says that it can run on this machine. `BULLPEN_TEST_BACKENDS=path:path` adds folders from elsewhere.
What only shows at a provider's side is in `test_providers.py`, what only shows in the folder in `test_folders.py`.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
import yaml

from bus.delivered import Delivered
from contracts import BullpenError, InferenceRequest, Piece, SilenceOk
from tests.backends.providers import PROVIDERS, Failure, Provider, configured
from tests.fake_manager import response
from tests.support import eventually
from workers.base import Backend, BackendConfig, Completion, Delta, Done, Job
from workers.base.interface.discovery import BackendFolder, discover, find
from workers.base.provider import streaming

ELSEWHERE = [find(path) for path in os.environ.get("BULLPEN_TEST_BACKENDS", "").split(os.pathsep) if path]
FOLDERS = {**discover(), **{folder.name: folder for folder in ELSEWHERE}}
QUESTION = "What is the capital of France?"

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),  # one of them is a real model, on a machine that may be busy
]


@dataclass
class Subject:
    """A backend that was started, and what its folder says of it."""

    folder: BackendFolder
    config: BackendConfig
    backend: Backend[Any]
    provider: Provider | None = None
    """The stand-in that answers, if one does."""

    @property
    def scripted(self) -> bool:
        """Whether a stand-in answers, which says the same whatever it is asked."""
        return self.provider is not None

    def verdict(self, item: str) -> str:
        """What the report card says of it."""
        return str(yaml.safe_load((self.folder.path / "checklist.yaml").read_text())[item])

    def needs(self, item: str, *, unscripted: bool = False) -> None:
        """Skips the test when the report card says that the backend doesn't do this, or a stand-in can't show it."""
        if (verdict := self.verdict(item)) != "done":
            pytest.skip(verdict)
        if unscripted and self.scripted:
            pytest.skip("a stand-in always says the same")

    def job(
        self,
        prompt: str = QUESTION,
        prefix: str = "",
        max_tokens: int = 48,
        silence_ok: SilenceOk | None = None,
        **asked: Any,
    ) -> Job:
        request = InferenceRequest(**{"prompt": prompt, "temperature": 0.0, **asked})
        return Job(request, self.backend.models()[0], max_tokens, prefix, silence_ok)

    async def ask(self, prompt: str = QUESTION, **asked: Any) -> Completion:
        completion: Completion = await self.backend.infer(self.job(prompt, **asked))
        return completion


def tasks() -> set[str]:
    """The tasks at work, without those of a stand-in's server, whose connections stay open as they like."""
    names = {f"{task.get_name()} {getattr(task.get_coro(), '__qualname__', '')}" for task in asyncio.all_tasks()}
    return {name for name in names if "RequestHandler." not in name}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=sorted(FOLDERS))
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    folder = FOLDERS[request.param]
    provider: Provider | None = None
    async with AsyncExitStack() as stack:
        if folder.name in PROVIDERS:
            environ = stack.enter_context(pytest.MonkeyPatch.context())
            environ.setenv(f"{folder.name.upper()}_API_KEY", "sk-test")
            provider = await stack.enter_async_context(PROVIDERS[folder.name]())
            config = configured(folder.load().config_class, provider.config())
        else:
            told = await folder.available()
            if not told.available:
                pytest.skip(f"{told.reason}; {told.cure}")
            config = folder.config()
            if "threads" in type(config).model_fields:  # a real model's spin while they wait, beside other tests
                config = config.model_copy(update={"threads": 1})
        backend = folder.load()(config)
        await backend.start(lambda _: None)
        stack.push_async_callback(backend.close)
        yield Subject(folder, config, backend, provider)


@pytest.fixture
def provider(subject: Subject) -> Iterator[Provider]:
    """The stand-in that answers; it is as usual again afterwards."""
    if subject.provider is None:
        pytest.skip("no stand-in can keep it waiting")
    subject.provider.received.clear()
    yield subject.provider
    subject.provider.paced, subject.provider.failure = [], Failure()


async def test_it_says_what_it_serves(subject: Subject) -> None:
    cards = subject.backend.models()
    assert cards
    names = [name for card in cards for name in (card.model_id, *card.aliases)]
    assert len(names) == len(set(names))
    assert all("chat" in card.capabilities and card.context_window > 0 for card in cards)


async def test_an_answer_is_pieces_then_exactly_one_end(subject: Subject) -> None:
    *deltas, done = [piece async for piece in subject.backend.stream(subject.job())]
    assert isinstance(done, Done)
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)).strip()
    assert done.finish_reason in ("stop", "length")


async def test_tokens_are_counted(subject: Subject) -> None:
    subject.needs("usage")
    *deltas, done = [piece async for piece in subject.backend.stream(subject.job())]
    assert isinstance(done, Done)
    assert done.prompt_tokens is not None and done.completion_tokens is not None
    assert done.prompt_tokens >= 3
    seen = sum(delta.tokens for delta in deltas if isinstance(delta, Delta))
    assert abs(done.completion_tokens - seen) <= 2  # the end-of-answer token has no text


async def test_logprobs_are_logarithms_of_probabilities(subject: Subject) -> None:
    """Those of every answer, where confidence comes from them; a simulated one is drawn, and asked for them."""
    subject.needs("logprobs")
    answer = await subject.ask(logprobs=subject.backend.simulated)
    assert answer.logprobs
    assert all(logprob <= 0 for logprob in answer.logprobs)
    assert answer.done.completion_tokens is not None
    assert len(answer.logprobs) <= answer.done.completion_tokens


async def test_tokens_come_as_text_when_asked_for(subject: Subject) -> None:
    if "logprobs" not in subject.backend.models()[0].capabilities:
        pytest.skip("it does not say that it can")
    answer = await subject.ask(logprobs=True, top_logprobs=2)
    assert "".join(token.token for token in answer.token_logprobs) == answer.text
    assert tuple(token.logprob for token in answer.token_logprobs) == answer.logprobs
    assert (await subject.ask()).token_logprobs == ()


async def test_pieces_of_calls_join_to_the_calls(subject: Subject) -> None:
    if "tools" not in subject.backend.models()[0].capabilities:
        pytest.skip("it does not say that it can")
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    answer = await subject.ask(tools=(tool,))
    delivered = Delivered()
    delivered.take(Piece(answer.text, tool_calls=answer.tool_calls))
    whole = response("t", answer.text, tool_calls=answer.done.tool_calls)
    assert answer.done.tool_calls and delivered.has_calls and delivered.is_all_of(whole)


async def test_thoughts_come_beside_the_answer(subject: Subject, provider: Provider) -> None:
    provider.paced = [*opening_of(provider), *[(0.0, provider.thought())] * 2, *answer_of(provider)]
    answer = await subject.ask()
    assert (answer.reasoning, answer.text) == ("Hm.Hm.", "The capital is Paris.")


async def test_the_limit_of_tokens_is_kept(subject: Subject) -> None:
    subject.needs("limits", unscripted=True)
    done = (await subject.ask("Tell me a long story.", max_tokens=3)).done
    assert (done.finish_reason, done.completion_tokens) == ("length", 3)


async def test_a_stop_sequence_ends_the_answer_before_it(subject: Subject) -> None:
    subject.needs("limits", unscripted=True)
    text = (await subject.ask()).text
    stop = text.split()[2]
    stopped = await subject.ask(stop=(stop,))
    assert stopped.done.finish_reason == "stop"
    assert stopped.text.rstrip() == text[: text.index(stop)].rstrip()


async def test_an_answer_goes_on_after_what_was_delivered(subject: Subject) -> None:
    if "prefill" not in subject.backend.models()[0].capabilities:
        pytest.skip("it does not say that it can")
    text = (await subject.ask()).text
    at = text.index(text.split()[3])
    for prefix in (text[:at].rstrip(), text[:at], text.rstrip()):
        rest = await subject.ask(prefix=prefix)
        assert prefix + rest.text == text


async def test_only_one_that_goes_on_says_so(subject: Subject) -> None:
    says = any("prefill" in card.capabilities for card in subject.backend.models())
    assert not says or subject.verdict("continue") == "done"


async def test_answers_side_by_side_do_not_mix(subject: Subject) -> None:
    animals = ("cat", "dog", "horse", "whale")[: subject.config.max_concurrency]
    questions = [f"Tell me about the {animal}." for animal in animals]
    alone = [await subject.ask(question, max_tokens=8) for question in questions]
    together = await asyncio.gather(*(subject.ask(question, max_tokens=8) for question in questions))
    assert [answer.text for answer in together] == [answer.text for answer in alone]


async def test_leaving_an_answer_leaves_nothing_behind(subject: Subject) -> None:
    subject.needs("cancel")
    before = tasks()
    async with aclosing(subject.backend.stream(subject.job("Tell me a very long story.", max_tokens=1000))) as pieces:
        await anext(pieces)
    await eventually(lambda: tasks() <= before)
    assert (await subject.ask()).text


async def test_cancelling_leaves_nothing_behind(subject: Subject) -> None:
    subject.needs("cancel")
    before = tasks()
    asking = asyncio.create_task(subject.ask("Tell me a very long story.", max_tokens=1000))
    await asyncio.sleep(0)  # so that it has begun
    asking.cancel()
    await asyncio.wait({asking})
    await eventually(lambda: tasks() <= before)
    assert (await subject.ask()).text


async def test_no_answer_is_silent_for_longer_than_it_may_be(subject: Subject) -> None:
    with pytest.raises(BullpenError, match="silent for 0 s before its first token"):
        await subject.backend.infer(subject.job(silence_ok=SilenceOk(first_token=0, next_token=0)))
    assert (await subject.ask()).text


Pieces = list[tuple[float, str]]
SHORT, LONG = 0.8, 4.1
"""Seconds: of the silences below, and what several of them are longer than. A busy machine stands still for three."""
ALLOWED = 3.9
"""Seconds of silence, less than LONG and than five of SHORT."""


def opening_of(provider: Provider) -> Pieces:
    return [(0.0, piece) for piece in provider.pieces({})[: provider.opening]]


def answer_of(provider: Provider) -> Pieces:
    return [(0.0, piece) for piece in provider.pieces({})[provider.opening :]]


def blank(_: Provider) -> str:
    return "\n"


def keep_alive(provider: Provider) -> str:
    return provider.keep_alive


def thought(provider: Provider) -> str:
    return provider.thought()


def role(provider: Provider) -> str:
    return provider.role()


class Script(NamedTuple):
    """What a stand-in says, and the silence that it may begin with."""

    pieces: Pieces
    first_token: float = 60.0
    slow_headers: float = 0.0


def slow(provider: Provider, headers: float) -> Script:
    paced = [(LONG - headers, ""), *opening_of(provider), *answer_of(provider)]
    return Script(paced, slow_headers=headers)


def no_token(provider: Provider, what: Callable[[Provider], str]) -> Script:
    silence = (LONG, provider.keep_alive)
    return Script([*opening_of(provider), (0.0, what(provider)), silence, *answer_of(provider)])


def signs(provider: Provider, at: int, what: Callable[[Provider], str]) -> Script:
    """Five of them, before this part of the answer."""
    words = answer_of(provider)
    told = [(SHORT, what(provider))] * 5
    return Script([*opening_of(provider), *words[:at], *told, *words[at:]], first_token=ALLOWED)


SLOW = {"before its first token": partial(slow, headers=0.0), "before its headers": partial(slow, headers=LONG)}
NO_TOKEN = {what.__name__: partial(no_token, what=what) for what in (thought, role)}
SIGNS = {
    f"{what.__name__} {where}": partial(signs, at=at, what=what)
    for at, where in ((0, "before the first token"), (2, "between tokens"))
    for what in (keep_alive, blank, thought)
}


class Told(NamedTuple):
    """What came of a script."""

    pieces: list[Delta | Done]
    asked: int
    """How often the provider was."""

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Delta))

    @property
    def signs(self) -> int:
        return sum(isinstance(piece, Delta) and not piece.text for piece in self.pieces)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def told(subject: Subject) -> Callable[[str], Told]:
    """What came of each script, by name: all of them play at the same time, each at a stand-in of its own."""
    if subject.provider is None:
        pytest.skip("no stand-in can keep it waiting")
    scripts = {**SLOW, **NO_TOKEN, **SIGNS}
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(streaming, "TELL_EVERY", SHORT / 2)
        asking = [await play(subject, stack, script) for script in scripts.values()]
        came = dict(zip(scripts, await asyncio.gather(*asking, return_exceptions=True), strict=True))

    def of(name: str) -> Told:
        if isinstance(result := came[name], BaseException):
            raise result
        return result

    return of


async def play(
    subject: Subject, stack: AsyncExitStack, script: Callable[[Provider], Script]
) -> Coroutine[Any, Any, Told]:
    """Makes all ready, and returns what asks: what takes its time must not do so while somebody waits."""
    provider = await stack.enter_async_context(PROVIDERS[subject.folder.name]())
    pieces, first_token, slow_headers = script(provider)
    provider.paced, provider.failure = pieces, Failure(slow_headers=slow_headers)
    config = configured(subject.folder.load().config_class, provider.config())
    backend = subject.folder.load()(config)
    await backend.start(lambda _: None)
    stack.push_async_callback(backend.close)
    asked = Subject(subject.folder, config, backend, provider).job(
        silence_ok=SilenceOk(first_token=1000 * first_token, next_token=1000 * ALLOWED)
    )

    async def ask() -> Told:
        return Told([piece async for piece in backend.stream(asked)], len(provider.received))

    return ask()


@pytest.mark.parametrize("where", SLOW)
async def test_a_slow_first_token_is_waited_for(told: Callable[[str], Told], where: str) -> None:
    """Longer than it may be silent afterwards."""
    assert (told(where).text, told(where).asked) == ("The capital is Paris.", 1)


@pytest.mark.parametrize("what", NO_TOKEN)
async def test_what_is_no_token_does_not_end_the_wait_for_the_first_one(told: Callable[[str], Told], what: str) -> None:
    assert (told(what).text, told(what).asked) == ("The capital is Paris.", 1)


@pytest.mark.parametrize("what", SIGNS)
async def test_everything_that_arrives_ends_a_silence_and_is_a_sign_of_life(
    told: Callable[[str], Told], what: str
) -> None:
    """Also what an SDK shows nothing of. All of it together takes longer than one silence may."""
    assert isinstance(told(what).pieces[-1], Done)
    assert told(what).text == "The capital is Paris."
    assert told(what).signs >= 4


@pytest.mark.parametrize("at", [0, 2], ids=["before its first token", "between tokens"])
async def test_a_silence_that_is_too_long_is_the_end(subject: Subject, provider: Provider, at: int) -> None:
    words = answer_of(provider)
    provider.paced = [*opening_of(provider), *words[:at], (30.0, ""), *words[at:]]
    allowed = SilenceOk(first_token=20_000 if at else 300, next_token=300)
    with pytest.raises(BullpenError, match="silent for 0.3 s between tokens" if at else "silent for 0.3 s before"):
        await subject.backend.infer(subject.job(silence_ok=allowed))


async def test_it_is_well(subject: Subject) -> None:
    subject.needs("health")
    await subject.backend.health()


async def test_closing_leaves_no_task_and_no_thread(subject: Subject) -> None:
    before, threads = tasks(), set(threading.enumerate())
    backend = subject.folder.load()(subject.config)
    await backend.start(lambda _: None)
    await backend.infer(subject.job())
    await backend.close()
    await eventually(lambda: tasks() <= before)
    await eventually(lambda: {t for t in threading.enumerate() if not t.name.startswith("asyncio_")} <= threads)
