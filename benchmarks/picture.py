"""The moving picture of the README: a worker is killed in mid-sentence, and the sentence goes on.

Nothing in it is staged. A mesh of two workers with the bundled model is started, `bullpen ask` is run on a terminal,
and the worker that answers is killed with SIGKILL while it does. What the terminals show is written down with its
time, and becomes an SVG that moves by itself (CSS; who wants no motion sees its end).
"""

import asyncio
import os
import shlex
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from bullpen.supervision.mesh import Mesh
from client import Bullpen
from tests.cli import Terminal
from tests.servers import free_port

OUT = Path(__file__).resolve().parents[1] / "docs" / "killed.svg"
QUESTION = "Tell me a story about a lighthouse keeper."
SYSTEM = "You tell stories."
COMMAND = ["ask", "-s", SYSTEM, QUESTION, "--max-tokens", "110"]
KILL_AFTER = 190
"""Characters of the answer."""
SAMPLE_EVERY = 0.05
PAUSE = 5.0
"""Seconds for which the end stays."""
COLUMNS = 80
LINE, CHARACTER, LEFT, TOP = 19, 8.43, 18, 44
"""Pixels."""
TRIES = 10


@dataclass
class Pane:
    """What one terminal shows: pieces of text, each with the second at which it came."""

    pieces: list[tuple[float, str, str]] = field(default_factory=list)

    def add(self, at: float, text: str, style: str = "") -> None:
        self.pieces.append((at, text, style))


@dataclass
class Recording:
    asking: Pane = field(default_factory=Pane)
    watching: Pane = field(default_factory=Pane)


async def record() -> Recording:
    """Raises `AssertionError` when the worker had finished before it was killed."""
    loop, made = asyncio.get_running_loop(), Recording()
    with tempfile.TemporaryDirectory() as folder:
        began = loop.time()

        def told(line: str) -> None:
            made.watching.add(loop.time() - began, f"{line}\n", "said")

        mesh = Mesh(Path(folder), workers=[("local", 2)], nats_port=free_port(), postgres=False, tell=told)
        async with mesh, Bullpen.connect(mesh.endpoints.nats_url) as bullpen, bullpen.roster() as roster:
            await bullpen.ask("Hello?", max_tokens=4)  # the first answer of a fresh process takes longer
            made.asking.add(0.0, f"$ {shlex.join(['bullpen', *COMMAND])}\n", "typed")
            began = loop.time()
            place = {"NATS_URL": mesh.endpoints.nats_url, "BULLPEN_DATA_DIR": folder}
            async with Terminal.run(*COMMAND, columns=COLUMNS, **place) as terminal:
                await _follow(terminal, made, lambda: loop.time() - began, KILL_AFTER)
                busy = next(beat.worker_id for beat in roster.beats if beat.inflight)
                pid = mesh.pid(f"worker-{busy}")
                typed = f"$ kill -9 {pid}   # {busy}, which is answering\n"
                made.watching.add(loop.time() - began, typed, "typed")
                os.kill(pid, signal.SIGKILL)
                await _follow(terminal, made, lambda: loop.time() - began)
                assert await terminal.end() == 0
                assert "2 attempts" in terminal.screen, "it had finished before it was killed"
            await asyncio.sleep(0.5)
    return made


async def _follow(terminal: Terminal, made: Recording, now: Callable[[], float], until: int | None = None) -> None:
    """Writes down what comes, until there are so many characters in mid-sentence; None: until the end."""
    shown = sum(len(text) for _, text, style in made.asking.pieces if style != "typed")
    while True:
        screen = terminal.screen
        if len(screen) > shown:
            made.asking.add(now(), screen[shown:])
            shown = len(screen)
        if until is None and "attempts" in screen and screen.endswith("\n"):
            return
        if until is not None and shown >= until and screen[-1:].isalpha():
            return
        await asyncio.sleep(SAMPLE_EVERY)


# The picture


def drawn(made: Recording) -> str:
    """The recording as SVG."""
    length = max(at for pane in (made.asking, made.watching) for at, _, _ in pane.pieces) + PAUSE
    asking, below = _placed(made.asking, 0)
    watching, rows = _placed(made.watching, below + 2)
    width, height = round(COLUMNS * CHARACTER + 2 * LEFT), TOP + rows * LINE + 6
    moments = sorted({round(at, 1) for at, _, _, _, _ in (*asking, *watching)} - {0.0})
    frames = "".join(
        f"@keyframes k{round(at * 10)}{{0%{{visibility:hidden}}{at / length * 100:.2f}%{{visibility:visible}}}}"
        f".k{round(at * 10)}{{animation:k{round(at * 10)} {length:.1f}s step-end infinite}}"
        for at in moments
    )
    words = "".join(
        f'<text x="{LEFT + column * CHARACTER:.1f}" y="{TOP + row * LINE}" class="{_classes(at, style)}"'
        f' textLength="{len(text) * CHARACTER:.1f}">{escape(text)}</text>'
        for at, text, style, row, column in (*asking, *watching)
    )
    middle = TOP + round((below + 0.35) * LINE)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img"><title>bullpen ask: the worker that answers is killed in mid-sentence, and the sentence goes on'
        "</title><style>text{font:14px ui-monospace,Menlo,Consolas,monospace;fill:#d6deeb;white-space:pre}"
        ".typed{fill:#7fdbca;font-weight:bold}.said{fill:#ecc48d}.dim{fill:#8090a0}"
        f"@media(prefers-reduced-motion:reduce){{*{{animation:none!important}}}}{frames}</style>"
        f'<rect width="{width}" height="{height}" rx="8" fill="#0b1622"/>'
        '<circle cx="18" cy="16" r="5" fill="#ff5f57"/><circle cx="36" cy="16" r="5" fill="#febc2e"/>'
        '<circle cx="54" cy="16" r="5" fill="#28c840"/>'
        f'<path d="M0 {middle}H{width}" stroke="#2a3a4a"/>{words}</svg>\n'
    )


def _classes(at: float, style: str) -> str:
    tenth = round(at * 10)
    return " ".join(part for part in (f"k{tenth}" if tenth else "", style) if part)


def _placed(pane: Pane, row: int) -> tuple[list[tuple[float, str, str, int, int]], int]:
    """Each piece at its row and column, broken where the terminal breaks it; and the row after the last one."""
    found: list[tuple[float, str, str, int, int]] = []
    column = 0
    for at, text, style in pane.pieces:
        for line in text.splitlines(keepends=True):
            rest = line.removesuffix("\n")
            how = "dim" if " attempts" in rest or "confidence " in rest else style
            while rest:
                part, rest = rest[: COLUMNS - column], rest[COLUMNS - column :]
                found.append((at, part, how, row, column))
                column += len(part)
                if column == COLUMNS and rest:
                    row, column = row + 1, 0
            if line.endswith("\n") or column == COLUMNS:
                row, column = row + 1, 0
    return found, row + (column > 0)


async def main() -> None:
    for _ in range(TRIES):
        try:
            OUT.write_text(drawn(await record()), encoding="utf-8")
        except (AssertionError, StopIteration) as error:
            print(f"once more: {error}")
        else:
            print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} KiB")
            return
