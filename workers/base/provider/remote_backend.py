"""A backend that asks a provider through its SDK: the steps of one question, the same for all of them."""

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from config.loader import ConfigError
from contracts import BullpenError
from workers.base.interface.backend import Availability, Backend, Delta, Done, Job
from workers.base.interface.config import BackendConfig, Parameter
from workers.base.provider.answer import Answer
from workers.base.provider.call_forms import CallRule, translated
from workers.base.provider.parameters import asked_in_vain
from workers.base.provider.question import asked, built
from workers.base.provider.streaming import patiently

C = TypeVar("C", bound=BackendConfig)


class RemoteBackend(Backend[C]):
    """A subclass says what the question is (`_question`), how it is sent (`_ask`), what gathers the answer (`answer`),
    and what a failure means (`_told`).
    """

    calls: ClassVar[CallRule] = CallRule()
    """The ids and names of tool calls that the provider accepts."""
    answer: ClassVar[type[Answer[Any]]]
    failures: ClassVar[tuple[type[Exception], ...]]
    """The exceptions that the SDK raises."""
    config_cure: ClassVar[str]
    """What to do about an unusable address or key."""

    @classmethod
    async def available(cls, config: C) -> Availability:
        try:
            backend = cls(config)
        except ConfigError as error:
            return Availability.no(str(error), cls.config_cure)
        try:
            return await backend._available()
        finally:
            await backend.close()

    @abstractmethod
    async def _available(self) -> Availability:
        """Whether the server answers and the key is set. Never raises."""

    @abstractmethod
    def _question(self, job: Job) -> Any:
        """The question in the provider's form. A failure here is the fault of the request, or of the model's
        options.
        """

    def _left_out(self, question: Any, job: Job) -> Collection[Parameter]:
        """Parameters in `takes` that this question had to leave out for this model."""
        return ()

    @abstractmethod
    async def _ask(self, question: Any, job: Job) -> AsyncIterator[Any]:
        """Sends the question; returns the pieces of the answer."""

    @abstractmethod
    def _told(self, error: Exception) -> BullpenError:
        """The error that a failure means to the mesh."""

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        calls = translated(job, self.calls)
        answer, question = self.answer(job), built(self._question, calls.job)

        async def ask() -> AsyncIterator[Any]:
            return await asked(self._ask(question, job), job)

        try:
            async with aclosing(patiently(ask, answer.take, self.patience(job))) as deltas:
                async for delta in deltas:
                    if delta.answers or delta.reasoning or not answer.is_complete:
                        yield calls.restored_delta(delta)
                    if answer.is_complete:
                        break
            if (rest := answer.rest()) is not None:
                yield rest
            if (done := answer.done()) is not None:
                vain = asked_in_vain(job.request, self._left_out(question, job))
                yield replace(calls.restored(done), unsupported=vain)
        except self.failures as error:
            raise self._told(error) from error
