"""What gathers one answer from the pieces of a provider's stream."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from workers.base.interface.backend import Delta, Done, Job
from workers.base.provider.chat import THOUGHTS_LEAST, SizeGuard
from workers.base.provider.overlap_trimmer import OverlapTrimmer

T = TypeVar("T")


class Answer(ABC, Generic[T]):
    """One answer. SDKs read trustingly: whatever a server puts in a field is in the field. So it is checked here."""

    def __init__(self, job: Job) -> None:
        self._size = SizeGuard(job.max_tokens)
        self._thoughts = SizeGuard(job.max_tokens, least=THOUGHTS_LEAST)
        self._seam = OverlapTrimmer(job.prefix)
        self._said = False
        """It has some text."""

    is_complete = False
    """Nothing is waited for any more, though the provider may leave its connection open."""

    @abstractmethod
    def take(self, piece: T) -> Delta | None:
        """What a piece brings; None: nothing to show. Raises `BullpenError`, or `ValueError` for one that is none."""

    def rest(self) -> Delta | None:
        """What was held back because it might have been the start of the answer once more."""
        text = self._seam.end()
        return Delta(text, 0) if text else None

    @abstractmethod
    def done(self) -> Done | None:
        """The end; None when the provider never said why it stopped."""
