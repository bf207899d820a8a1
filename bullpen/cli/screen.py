"""Progress of a mesh that starts and runs: the step under way replaces the last one on a terminal, else a line now and
then.
"""

import time
from contextlib import suppress

from rich.console import Console
from rich.status import Status
from rich.text import Text

from bullpen.cli.show import flat

PLAIN_EVERY = 5.0
"""Seconds between two lines about the step under way where a line cannot replace the last one."""


class Screen:
    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._status: Status | None = None
        self._told_at = time.monotonic()
        self._settled = False

    def tell(self, line: str) -> None:
        """Prints an event; with the time once the mesh runs."""
        line = flat(line)  # a worker's reason came over the wire
        self._print(f"{time.strftime('%H:%M:%S')} {line}" if self._settled else line)

    def doing(self, step: str) -> None:
        """Shows the step under way."""
        step = flat(step)
        if self._console.is_terminal:
            self._show(step)
        elif time.monotonic() - self._told_at > PLAIN_EVERY:
            self._told_at = time.monotonic()
            self._print(f"{step} …")

    def idle(self) -> None:
        """Shows that no step is under way."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def settled(self) -> None:
        """The mesh runs: lines have the time from now on."""
        self._settled = True

    def _print(self, line: str) -> None:
        # Who started us may have closed the terminal, or the pipe (which rich answers with an exit): the mesh goes on.
        with suppress(OSError, SystemExit):
            self._console.print(line)

    def _show(self, step: str) -> None:
        if self._status is None:
            self._status = self._console.status(Text(step))  # not as a string: that may have markup
            self._status.start()
        self._status.update(Text(step))
