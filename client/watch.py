"""Decides whether the Manager that took a request still has it: when to ask, when to send again. Pure: the clock is
passed in.

Most answers come before the client asks. After a second of silence it asks which Manager has the task. That Manager
answers at once, and is asked again now and then. When two such questions in a row stay unanswered, the Manager is lost,
dead or frozen alike, and the request is sent again for another one to take. When no Manager listens at all, one may
just be restarting: the client waits a few seconds. Times are seconds.
"""

from enum import Enum, auto
from math import inf

from bus.backoff import Backoff

QUIET = 1.0
"""Silence after which the client asks."""
QUIET_AGAIN = 0.3
"""Silence after which the client asks when the request was sent again: it may have reached the lost Manager again."""
HELD = 2.0
"""How long the client waits after a Manager has confirmed that it has the task."""
REPLY_WITHIN = 0.3
SILENCES = 2
"""Status requests in a row without a reply after which the Manager is lost."""
WITHOUT_MANAGER = 10.0
"""How long the client waits when no Manager listens at all."""
LOOK_AGAIN = Backoff(0.4, 0.4)
OFFLINE_LOOK = 0.1
MOST_SENDS = 8
SEND_AGAIN = Backoff(0.1, 2.0)
"""Wait before a request is sent again. It is random, so that the clients of a lost Manager do not all come back at
once.
"""


class Step(Enum):
    SEND = auto()
    """Send the request (again)."""
    ASK = auto()
    """Ask which Manager has the task."""
    GIVE_UP = auto()


class ManagerWatch:
    """Its owner does `step` at the time `due`, and reports the result."""

    def __init__(self, now: float) -> None:
        self.step = Step.SEND
        self.due = now
        self.sends = 0
        """How often the request was sent and a Manager may have received it."""
        self._silences = 0
        self._unheard_since: float | None = None
        self._asked_twice = False

    @property
    def no_manager(self) -> bool:
        """Whether no Manager listens, as far as the client knows."""
        return self._unheard_since is not None

    def sent(self, now: float) -> None:
        self.sends += 1
        self._ask_in(QUIET if self.sends == 1 else QUIET_AGAIN, now)

    def asked(self, now: float) -> None:
        self._silences += 1
        self.due = now + REPLY_WITHIN
        if self._silences >= SILENCES:
            self._unheard_since = None  # Managers listen, but none has it
            self._lose()

    def held(self, now: float) -> None:
        """A Manager has confirmed that it has the task."""
        self._unheard_since = None
        self._ask_in(HELD, now)

    def heard(self, now: float) -> None:
        """A piece of the answer came."""
        self._unheard_since = None
        self._ask_in(QUIET, now)

    def unsent(self, now: float) -> None:
        """No Manager listened when the request was sent."""
        self.sends -= 1
        self.step = Step.GIVE_UP if self._unheard_for(now) >= WITHOUT_MANAGER else Step.SEND
        self.due = now + LOOK_AGAIN.wait(1)

    def status_unheard(self, now: float) -> None:
        """No Manager listens to status requests: there is none, or only older ones. In the end only sending shows
        which.
        """
        self._ask_in(LOOK_AGAIN.wait(1), now)
        if self._unheard_for(now) >= WITHOUT_MANAGER:
            self.step = Step.SEND
            self.due = inf if self._asked_twice else now
            self._asked_twice = True

    def cut_off(self, now: float) -> None:
        """The client's own connection is down: silence proves nothing, and an unsent request stays unsent."""
        self._ask_in(OFFLINE_LOOK, now)
        if not self.sends:
            self.step = Step.SEND

    def lost(self, now: float) -> None:
        """A piece of the answer is missing: the request has to be sent again."""
        self.due = now
        self._lose()

    def rest(self) -> None:
        """Nothing is left but to wait."""
        self.due = inf

    def _ask_in(self, seconds: float, now: float) -> None:
        self._silences = 0
        self.step, self.due = Step.ASK, now + seconds

    def _lose(self) -> None:
        self.step = Step.SEND if self.sends < MOST_SENDS else Step.GIVE_UP
        self.due += SEND_AGAIN.wait(self.sends)

    def _unheard_for(self, now: float) -> float:
        if self._unheard_since is None:
            self._unheard_since = now
        return now - self._unheard_since
