"""What every backend promises, asked of every backend that can be asked here.

One with a stand-in provider (`providers.py`) is asked through that; any other one is asked as it stands, when
it says that it can run on this machine. `BULLPEN_TEST_BACKENDS=path:path` adds folders from elsewhere.
What only shows at a provider's side is in `test_providers.py`, what only shows in the folder in `test_folders.py`.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
import yaml

from contracts import InferenceRequest
from tests.backends.providers import PROVIDERS, configured
from tests.support import eventually
from workers.base import Backend, BackendConfig, Completion, Delta, Done, Job
from workers.base.interface.discovery import BackendFolder, discover, find

ELSEWHERE = [find(path) for path in os.environ.get("BULLPEN_TEST_BACKENDS", "").split(os.pathsep) if path]
FOLDERS = {**discover(), **{folder.name: folder for folder in ELSEWHERE}}
QUESTION = "What is the capital of France?"

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(60),  # one of them is a real model, on a machine that may be busy
]


@dataclass
class Subject:
    """A backend that was started, and what its folder says of it."""

    folder: BackendFolder
    config: BackendConfig
    backend: Backend[Any]

    @property
    def scripted(self) -> bool:
        """Whether a stand-in answers, which says the same whatever it is asked."""
        return self.folder.name in PROVIDERS

    def verdict(self, item: str) -> str:
        """What the report card says of it."""
        return str(yaml.safe_load((self.folder.path / "checklist.yaml").read_text())[item])

    def needs(self, item: str, *, unscripted: bool = False) -> None:
        """Skips the test when the report card says that the backend doesn't do this, or a stand-in can't show it."""
        if (verdict := self.verdict(item)) != "done":
            pytest.skip(verdict)
        if unscripted and self.scripted:
            pytest.skip("a stand-in always says the same")

    def job(self, prompt: str = QUESTION, prefix: str = "", max_tokens: int = 48, **asked: Any) -> Job:
        request = InferenceRequest(**{"prompt": prompt, "temperature": 0.0, **asked})
        return Job(request, self.backend.models()[0], max_tokens, prefix)

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
        yield Subject(folder, config, backend)


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
    subject.needs("logprobs")
    answer = await subject.ask()
    assert answer.logprobs
    assert all(logprob <= 0 for logprob in answer.logprobs)
    assert answer.done.completion_tokens is not None
    assert len(answer.logprobs) <= answer.done.completion_tokens


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
    of_loop = {thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")}
    assert set(threading.enumerate()) - of_loop <= threads
