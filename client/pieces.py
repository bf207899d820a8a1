"""A stream as its caller gets it: numbered without a gap, also when the request was sent several times. Pure."""

from contracts import Chunk, FinalResponse, Resumed

LOST_MANAGER, OTHER_MANAGER = "a Manager", "another Manager"
"""`from` and `to` of a `Resumed` event when the client sent the request again."""


class Pieces:
    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._given = 0
        """Events that the caller has, void ones included."""
        self._base = 0
        """Events among them that came from earlier Managers."""
        self._characters = self._thought = 0
        """Characters of the answer, and of its reasoning, that the caller has and that are not void."""

        self.has_answer = False
        """Whether the caller has a part of the answer, beyond reasoning, that is not void."""

    def start_over(self) -> Resumed | None:
        """Begins again with another Manager. Returns the `Resumed` event for the caller; None: the caller has nothing
        yet.
        """
        self._base = self._given
        if not self._given:
            return None
        resumed = Resumed(
            task_id=self._task_id, seq=self._given, from_=LOST_MANAGER, to=OTHER_MANAGER, mode="restarted"
        )
        self._take(resumed)
        self._base = self._given
        return resumed

    def missing(self, event: Chunk | Resumed | FinalResponse) -> str | None:
        """What is missing before this event, in words; None: nothing."""
        if isinstance(event, FinalResponse):
            short = len(event.output) - self._characters
            short += max(0, len(event.reasoning or "") - self._thought)
            return f"{short} characters of the answer" if short else None
        due = self._given - self._base
        return None if event.seq == due else f"{due} is due, {event.seq} came"

    def given(self, event: Chunk | Resumed) -> Chunk | Resumed:
        """The event with its number in the caller's stream."""
        numbered = event if not self._base else event.model_copy(update={"seq": self._given})
        self._take(numbered)
        return numbered

    def _take(self, event: Chunk | Resumed) -> None:
        self._given += 1
        if isinstance(event, Chunk):
            self._characters += len(event.delta)
            self._thought += len(event.reasoning or "")
            self.has_answer = self.has_answer or event.piece.answers
        elif event.mode == "restarted":
            self._characters = self._thought = 0
            self.has_answer = False
