"""One attempt inside a worker: from "there is a place" to the answer or the reason why not.

Nothing here knows subjects or heartbeats; the runtime hands in the backend, the job and who listens.
"""

import asyncio
from contextlib import aclosing
from decimal import Decimal

from contracts import BullpenError, ErrorCode, PartialUsage, Phase
from workers.base.audience import Audience, Chunker
from workers.base.backend import Delta, Done, Job, truncated
from workers.base.call import Call
from workers.base.discovery import AnyBackend

PROGRESS_EVERY = 2.0
CLAIM_AFTER = 0.1
"""Seconds: an answer that comes sooner needs no claim."""


class Execution:
    """What became of a call so far; complete when `done` is set."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.job: Job | None = None
        self.started: float | None = None
        """The loop's clock, as is `first_token`."""
        self.first_token: float | None = None
        self.text: list[str] = []
        self.logprobs: list[float] = []
        self.tokens = 0
        self.moves = 0
        """Signs of progress; they come also while the prompt is read."""
        self.done: Done | None = None
        self._work: asyncio.Task[None] | None = None
        self._stopped: BullpenError | None = None

    @property
    def phase(self) -> Phase:
        if self.started is None:
            return "queued"
        return "prefill" if self.first_token is None else "decode"

    @property
    def queue_ms(self) -> float:
        return 0.0 if self.started is None else round((self.started - self.call.arrived) * 1000, 3)

    @property
    def ttft_ms(self) -> float | None:
        return None if self.first_token is None else round((self.first_token - self.call.arrived) * 1000, 3)

    @property
    def usage(self) -> PartialUsage:
        """What was used so far. The prompt's tokens are known only when the provider has told them."""
        return PartialUsage(
            prompt_tokens=self.done.prompt_tokens if self.done else None,
            completion_tokens=self.done.completion_tokens if self.done else self.tokens,
            cost_usd=self.cost,
        )

    @property
    def cost(self) -> Decimal | None:
        """US dollars at the model's price; None when the price or the usage is unknown."""
        if self.started is None:
            return Decimal(0)
        if self.job is None or self.job.model.price is None or self.done is None:
            return None
        if not self.done.prompt_tokens:
            return None  # every question has tokens: the provider did not tell its usage, and unknown is not zero
        return self.job.model.price.cost(self.done.prompt_tokens, self.done.completion_tokens)

    def stop(self, why: BullpenError) -> None:
        """Ends the attempt at once: the provider's call is aborted, and `why` is what is told."""
        self._stopped = self._stopped or why
        if self._work is not None:
            self._work.cancel()

    async def within(self, budget: float, work: "asyncio.Task[None]") -> None:
        """Waits for `work`, at most `budget` seconds, unless `stop` ends it. Raises `BullpenError`."""
        self._work = work
        if self._stopped is not None:
            work.cancel()
        try:
            async with asyncio.timeout(max(0.0, budget)):
                await work
        except TimeoutError:
            raise out_of_time() from None
        except asyncio.CancelledError:
            if self._stopped is None:
                raise
            raise self._stopped from None

    async def compute(self, backend: AnyBackend, job: Job, audience: Audience) -> None:
        """Has the backend answer, piece by piece. Raises `BullpenError`."""
        clock = asyncio.get_running_loop().time
        self.started = clock()
        chunker = Chunker(audience)
        async with aclosing(backend.stream(job)) as pieces:
            async for piece in pieces:
                self.moves += 1
                if isinstance(piece, Delta) and not piece.text and not piece.tokens:
                    continue  # the prompt is being read
                if self.first_token is None:
                    self.first_token = clock()
                if isinstance(piece, Done):
                    self.done = piece
                    break
                self._take(piece)
                if audience.wants_chunks and piece.text:
                    await chunker.add(piece.text, self.tokens)
        await chunker.flush()
        if self.done is None:
            raise truncated()

    async def keep_told(self, audience: Audience) -> None:
        """Claims the attempt, then tells its progress, until cancelled."""
        await audience.claim()
        while True:
            await audience.progress(self.tokens, self.phase, self.moves)
            await asyncio.sleep(PROGRESS_EVERY)

    def _take(self, piece: Delta) -> None:
        self.text.append(piece.text)
        self.logprobs.extend(piece.logprobs)
        self.tokens += piece.tokens


def out_of_time() -> BullpenError:
    return BullpenError(ErrorCode.DEADLINE_EXCEEDED, "the deadline passed before the answer was complete")
