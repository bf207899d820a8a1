"""The backend new_worker. As it stands it repeats the question: replace `stream` with a call of your model.

What must stay true: every answer ends in one `Done` with honest token counts, None for what the provider did not
tell; closing the generator ends the provider's call; a failure is a `BullpenError` whose code says what can be done
about it (`workers/base/provider/errors.py` reads the usual ones). The provider's own retries are off: asking another
worker is the Manager's decision.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from contracts import ModelCard
from workers.base import Availability, Backend, BackendConfig, Delta, Done, Job, Report
from workers.base.provider.streaming import patiently


class NewWorkerConfig(BackendConfig):
    """The keys of `config.yaml` that only this backend knows."""


class NewWorkerBackend(Backend[NewWorkerConfig]):
    name = "new_worker"
    config_class = NewWorkerConfig
    simulated = True
    """Remove this line when a model answers: until then every answer says that none did."""

    @classmethod
    async def available(cls, config: NewWorkerConfig) -> Availability:
        """Is the server there, the key set? When not, say why, and what to do about it."""
        return Availability.yes("repeats the question")

    async def start(self, report: Report) -> None:
        """Load, connect, pull. Tell how far it is: `report("loading: 41 %")`."""

    def models(self) -> tuple[ModelCard, ...]:
        return tuple(model.card(local=True) for model in self.config.models)

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        words = job.request.question.split()
        answer = words[: job.max_tokens]

        async def ask() -> AsyncIterator[str]:
            """Calls the model; returns the pieces of its answer as they come."""
            return _said(answer)

        async with aclosing(patiently(ask, _delta, self.patience(job))) as deltas:
            async for delta in deltas:
                yield delta
        yield Done(
            finish_reason="stop" if answer == words else "length",
            prompt_tokens=sum(len(message.text.split()) for message in job.request.conversation),
            completion_tokens=len(answer),
        )

    async def health(self) -> None:
        """Ask the server something cheap; raise `BullpenError` when it cannot answer."""

    async def close(self) -> None:
        """Close the client."""


async def _said(words: list[str]) -> AsyncIterator[str]:
    """Stands in for the stream of a provider."""
    for word in words:
        yield word


def _delta(word: str) -> Delta:
    return Delta(f"{word} ")
