"""A backend with the worst of bugs: when asked to block, it stops its whole process's event loop for five seconds."""

import asyncio
import time
from collections.abc import AsyncGenerator

from contracts import ModelCard
from workers.base import Availability, Backend, BackendConfig, Delta, Done, Job, Report

BLOCK = "block"
BLOCKED_S, USUAL_S = 5.0, 1.5


class BlockingBackend(Backend[BackendConfig]):
    name = "blocking"
    config_class = BackendConfig
    simulated = True

    @classmethod
    async def available(cls, config: BackendConfig) -> Availability:
        return Availability.yes("always")

    async def start(self, report: Report) -> None:
        """There is nothing to load."""

    def models(self) -> tuple[ModelCard, ...]:
        return tuple(model.card(local=True) for model in self.config.models)

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        if job.request.question == BLOCK:
            time.sleep(BLOCKED_S)  # noqa: ASYNC251 — this is the fault
        await asyncio.sleep(USUAL_S)
        yield Delta("well")
        yield Done(finish_reason="stop", prompt_tokens=1, completion_tokens=1)

    async def health(self) -> None:
        """Always well."""
