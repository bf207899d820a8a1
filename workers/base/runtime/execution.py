"""One attempt inside a worker: from its place to the answer or the reason why there is none.

This module knows no subjects and no heartbeats; the runtime passes in the backend, the job and the reply channel.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from contracts import (
    NOT_STARTED,
    BullpenError,
    EmbeddingRequest,
    ErrorCode,
    PartialUsage,
    Phase,
    Piece,
    SilenceOk,
    TokenLogprob,
)
from contracts.embedding import why_unusable
from workers.base.interface.backend import Delta, Done, Embedded, EmbeddingJob, Job, Usage, truncated
from workers.base.interface.discovery import AnyBackend
from workers.base.interface.silence import Silence
from workers.base.provider.embeddings import other_dimensions
from workers.base.provider.errors import ProviderRefused, garbage
from workers.base.provider.tool_calls import checked
from workers.base.runtime.call import Call
from workers.base.runtime.reply_channel import Chunker, ReplyChannel

if TYPE_CHECKING:
    from workers.base.runtime.trace import CallTrace

PROGRESS_EVERY = 2.0
"""Seconds between two progress messages; fewer when the allowed silence is shorter, so that the Manager hears of every
sign of life in time.
"""
OFTEN_ENOUGH = 0.05
MOST_BYTES = 8
"""Bytes of a token at most, on average over an answer; real tokens have four or five."""
MOST_THOUGHT = 1 << 18
"""Characters of an answer's thoughts that the caller gets; further thoughts are dropped."""
CLAIM_AFTER = 0.1
"""Seconds: an answer that takes less needs no claim."""


class Execution:
    """The state of a request inside the worker; complete when `done` is set."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.job: Job | EmbeddingJob | None = None
        self.trace: CallTrace | None = None
        """The spans of the request; None: tracing is off."""
        self.started: float | None = None
        """When the backend was asked, by the loop's clock; `first_token` and `ended` are by the same clock."""
        self.ended: float | None = None
        """When the provider's answer ended."""
        self.first_token: float | None = None
        self.text: list[str] = []
        self.logprobs: list[float] = []
        self.token_logprobs: list[TokenLogprob] = []
        """Tokens with their log-probabilities, for a request that asks for them."""
        self.thoughts: list[str] = []
        self._thought = 0
        """Characters of `thoughts`."""
        self._bytes = 0
        """Bytes of `text`."""
        self.tokens = 0
        self.moves = 0
        """Signs of life so far: pieces of the answer, and those while the prompt is read, the model thinks or the
        provider keeps the connection alive.
        """
        self.silence = Silence()
        """The longest silences so far."""
        self._moved: float | None = None
        self.told = Usage()
        """The usage that the provider has reported so far."""
        self.done: Done | None = None
        self.vectors: Sequence[Sequence[float]] = ()
        """The vectors, for a request that asks for them."""
        self.booked = False
        self._refused = False
        """Whether the provider refused before it began."""
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
    def logprobs_lack(self) -> bool:
        """Whether there is text without any token log-probabilities."""
        return any(self.text) and not self.token_logprobs

    @property
    def begun(self) -> bool:
        """Whether the attempt may have cost money."""
        return self.started is not None and not self._refused

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer as the provider reports them; otherwise the number of pieces that came."""
        return self.tokens if self.told.completion_tokens is None else self.told.completion_tokens

    @property
    def told_or_seen(self) -> Usage:
        """The provider's usage, with the pieces counted if it reported no tokens of the answer."""
        return Usage(self.told.prompt_tokens, self.completion_tokens)

    @property
    def usage(self) -> PartialUsage:
        """The usage so far."""
        return PartialUsage(
            prompt_tokens=self.told.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.told.cached_tokens,
            cache_write_tokens=self.told.cache_write_tokens,
            reasoning_tokens=self.told.reasoning_tokens,
            cost_usd=self.cost,
        )

    @property
    def cost(self) -> Decimal | None:
        """US dollars at the model's price, 0 for an attempt that was not begun. None: the price or the usage is
        unknown.
        """
        if not self.begun:
            return Decimal(0)
        return self.told.cost(self.job.model.price) if self.job is not None else None

    def stop(self, why: BullpenError) -> None:
        """Ends the attempt at once: aborts the provider's call, and fails the attempt with `why`."""
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

    async def compute(self, backend: AnyBackend, job: Job | EmbeddingJob, channel: ReplyChannel) -> None:
        """Lets the backend answer, and passes the pieces on. Raises `BullpenError`."""
        try:
            await self._gather(backend, job, channel)
        except BullpenError as error:
            said_no = isinstance(error, ProviderRefused) or error.code in NOT_STARTED
            self._refused = said_no and not self.moves
            raise
        finally:
            self.ended = self.call.clock()

    async def _gather(self, backend: AnyBackend, job: Job | EmbeddingJob, channel: ReplyChannel) -> None:
        clock = self.call.clock
        self.started = clock()
        chunker = Chunker(channel)
        asking = backend.stream(job) if isinstance(job, Job) else backend.embed(job)
        async with aclosing(asking) as pieces:
            async for piece in pieces:
                self._move(clock())
                self.told = piece.usage or self.told
                if isinstance(piece, Delta) and not piece.answers:
                    if piece.reasoning:
                        await self._pass_on(self._taken(piece), chunker, channel)
                    continue  # the prompt is being read, or the model thinks
                if self.first_token is None:
                    self.first_token = clock()
                if isinstance(piece, Done):
                    self.done = piece
                    break
                if isinstance(piece, Embedded):
                    self.done = self._embedded(piece)
                    break
                await self._pass_on(self._taken(piece), chunker, channel)
                if self._is_endless(job.max_tokens):
                    self.done = Done("length", None, None)
                    break
        await chunker.flush()
        if self.done is None:
            raise truncated()
        if isinstance(job, Job):
            job.check("".join(self.text), self.done)
        checked(self.done.tool_calls)

    def _embedded(self, told: Embedded) -> Done:
        """The end of an answer with vectors. Raises `BullpenError` when the vectors do not fit the texts or the wanted
        length.
        """
        request = self.call.request
        assert isinstance(request, EmbeddingRequest)
        if why := why_unusable(told.vectors, len(request.texts)):
            raise garbage(why)
        if (wanted := request.dimensions) and len(told.vectors[0]) != wanted:
            raise other_dimensions(wanted, len(told.vectors[0]))
        self.vectors = told.vectors
        return Done("stop", told.prompt_tokens, 0)

    def _is_endless(self, max_tokens: int | None) -> bool:
        """Whether the provider continues after `max_tokens`: both its pieces and its bytes are too many for that number
        of tokens.

        A token may come in several pieces, and several tokens in one piece, so neither alone proves it.
        """
        return max_tokens is not None and self.tokens > max_tokens and self._bytes > max_tokens * MOST_BYTES

    def _move(self, now: float) -> None:
        self.moves += 1
        silent = now - (self._moved or self.started or now)
        self._moved = now
        if self.first_token is None:
            self.silence = replace(self.silence, first_token=max(silent, self.silence.first_token))
        else:
            self.silence = replace(self.silence, next_token=max(silent, self.silence.next_token))

    async def keep_told(self, channel: ReplyChannel) -> None:
        """Claims the attempt, then sends its progress, until cancelled."""
        await channel.claim(self.silence_ok)
        while True:
            await channel.progress(self.tokens, self.phase, self.moves)
            await asyncio.sleep(self._progress_every)

    @property
    def silence_ok(self) -> SilenceOk | None:
        """How long the answer may be silent. None: its model is not chosen yet."""
        return self.job.silence_ok if self.job is not None else None

    @property
    def _progress_every(self) -> float:
        if (allowed := self.silence_ok) is None:
            return PROGRESS_EVERY
        shortest = min(allowed.first_token, allowed.next_token) / 1000
        return min(PROGRESS_EVERY, max(OFTEN_ENOUGH, shortest / 3))

    async def _pass_on(self, piece: Piece, chunker: Chunker, channel: ReplyChannel) -> None:
        if channel.wants_chunks and piece:
            await chunker.add(piece)

    def _taken(self, delta: Delta) -> Piece:
        """Records a piece of the backend's answer. Returns what the caller gets of it."""
        self.text.append(delta.text)
        self._bytes += len(delta.text.encode())
        self.logprobs.extend(delta.logprobs)
        self.tokens += delta.tokens
        thought = delta.reasoning[: MOST_THOUGHT - self._thought]
        if thought:
            self._thought += len(thought)
            self.thoughts.append(thought)
        told = self._wanted(delta.token_logprobs) if self.call.request.logprobs else ()
        self.token_logprobs.extend(told)
        return Piece(delta.text, thought, delta.tool_calls, told, self.tokens)

    def _wanted(self, tokens: tuple[TokenLogprob, ...]) -> tuple[TokenLogprob, ...]:
        """The tokens, with as many likely alternatives as the caller asked for."""
        most = self.call.request.top_logprobs or 0
        return tuple(
            token.model_copy(update={"top_logprobs": token.top_logprobs[:most]})
            if len(token.top_logprobs) > most
            else token
            for token in tokens
        )


def out_of_time() -> BullpenError:
    return BullpenError(ErrorCode.DEADLINE_EXCEEDED, "the deadline passed before the answer was complete")
