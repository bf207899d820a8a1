"""The backend new_worker. As it stands it repeats the question: replace `stream` with a call of your model.

What must stay true: every answer ends in one `Done` with honest token counts, None for what the provider did not
tell; closing the generator ends the provider's call; a failure is a `BullpenError` whose code says what can be done
about it (`workers/base/provider/errors.py` reads the usual ones). The provider's own retries are off: asking another
else is the Manager's business.
"""

from collections.abc import AsyncGenerator

from contracts import ModelCard
from workers.base import Availability, Backend, BackendConfig, Delta, Done, Job, Report


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
        for word in answer:
            yield Delta(f"{word} ")
        yield Done(
            finish_reason="stop" if answer == words else "length",
            prompt_tokens=sum(len(message.text.split()) for message in job.request.conversation),
            completion_tokens=len(answer),
        )

    async def health(self) -> None:
        """Ask the server something cheap; raise `BullpenError` when it cannot answer."""

    async def close(self) -> None:
        """Close the client."""
