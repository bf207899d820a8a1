"""Gathers one answer from the pieces of a provider's stream."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from workers.base.interface.backend import Delta, Done, Job
from workers.base.provider.chat import THOUGHTS_LEAST, SizeGuard
from workers.base.provider.overlap_trimmer import OverlapTrimmer

T = TypeVar("T")


class Answer(ABC, Generic[T]):
    """One answer. SDKs do not check what a server sends: a field may hold anything. So the fields are checked here."""

    def __init__(self, job: Job) -> None:
        self._size = SizeGuard(job.max_tokens)
        self._thoughts = SizeGuard(job.max_tokens, least=THOUGHTS_LEAST)
        self._seam = OverlapTrimmer(job.prefix)
        self._said = False
        """Whether the answer has some text."""

    is_complete = False
    """Whether the answer is complete, although the provider may leave its connection open."""

    @abstractmethod
    def take(self, piece: T) -> Delta | None:
        """The part of the answer in a piece; None: nothing to show. Raises `BullpenError`, or `ValueError` for a piece
        that cannot be read.
        """

    def rest(self) -> Delta | None:
        """The text that was held back because it might have repeated the start of the answer; None: no text."""
        text = self._seam.end()
        return Delta(text, 0) if text else None

    @abstractmethod
    def done(self) -> Done | None:
        """The end of the answer; None when the provider never said why it stopped."""
