"""The picture of a trace: a stream whose worker is killed in the middle, with real processes, as its collector saw it.

`python -m benchmarks traces` writes docs/trace.svg. Nothing in it is drawn by hand: bars are spans, in their order.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path

from tests.collector import Node, rerouted_stream
from tests.servers import NatsServer

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "trace.svg"
WIDTH, ROW, LEFT, RIGHT, TOP = 920, 26, 250, 40, 34
COLOURS = {"gateway": "#6b7fd7", "manager": "#2f9e77", "worker": "#d9822b"}
FAILED = "#c23b3b"


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = NatsServer(Path(directory))
        await server.start()
        try:
            _, tree = await rerouted_stream(Path(directory), server.url)
        finally:
            server.kill()
    PICTURE.write_text(drawn(tree))
    print(tree, f"\nwritten to {PICTURE}")


def drawn(tree: Node) -> str:
    """The tree as SVG: a bar for each span, on a scale of time."""
    rows = list(_rows(tree, 0))
    first, last = min(node.span.start for node, _ in rows), max(node.span.end for node, _ in rows)
    scale = (WIDTH - LEFT - RIGHT) / max(1, last - first)
    height = TOP + ROW * len(rows) + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        "<title>The trace of a stream that was rerouted: two attempts, the first with its reason</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_axis(last - first, scale, height),
    ]
    for number, (node, depth) in enumerate(rows):
        lines += _bar(node, depth, TOP + ROW * number, (node.span.start - first) * scale + LEFT, scale)
    return "\n".join([*lines, "</svg>", ""])


def _rows(node: Node, depth: int) -> Iterator[tuple[Node, int]]:
    yield node, depth
    for part in node.parts:
        yield from _rows(part, depth + 1)


def _axis(length: int, scale: float, height: int) -> Iterator[str]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if length / 1e6 / step <= 8)
    for ms in range(0, int(length / 1e6) + 1, step):
        x = LEFT + ms * 1e6 * scale
        yield f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - 8}" stroke="#e3e6ea"/>'
        yield f'<text x="{x:.1f}" y="{TOP - 14}" fill="#5b6470" text-anchor="middle">{ms} ms</text>'


def _bar(node: Node, depth: int, y: float, x: float, scale: float) -> Iterator[str]:
    span = node.span
    width = max(2.0, (span.end - span.start) * scale)
    fill = FAILED if span.error else COLOURS.get(span.service, "#888888")
    worker = span.facts.get("bullpen.worker_id", "") if span.name in ("attempt", "choice", "worker") else ""
    name = f"{span.service}: {span.name} {worker}".strip()
    yield f'<text x="{8 + 12 * depth}" y="{y + 15}" fill="#1f2733">{escape(name)}</text>'
    yield f'<rect x="{x:.1f}" y="{y + 4}" width="{width:.1f}" height="14" rx="3" fill="{fill}"/>'
    took = f"{(span.end - span.start) / 1e6:.1f} ms"
    told = f"{took}: {span.facts.get('error.type')}, {span.error}" if span.error else took
    inside = width > 7 * len(told)
    at, colour = (x + 6, "#ffffff") if inside else (x + width + 5, FAILED if span.error else "#5b6470")
    anchor = ""
    if not inside and at + 6.4 * len(told) > WIDTH:
        at, anchor = x - 5, ' text-anchor="end"'
    yield f'<text x="{at:.1f}" y="{y + 15}" fill="{colour}"{anchor}>{escape(told)}</text>'


def run() -> None:
    asyncio.run(main())
