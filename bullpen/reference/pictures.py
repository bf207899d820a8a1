"""The pictures of docs/how-it-works.md, with the names that are on the wire."""

from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from contracts import Claim, FinalResponse, Heartbeat, InferenceRequest, Resumed
from contracts import subjects as s

STYLE = """<style>
svg { background: #fff; font: 14px system-ui, sans-serif; }
text { fill: #1c2330; } .small { font-size: 12px; fill: #4a5568; } .mono { font: 12px ui-monospace, monospace; }
rect { fill: #eef2ff; stroke: #4f5fb5; rx: 8; } .server rect { fill: #fff6e5; stroke: #b7791f; }
path { fill: none; stroke: #4a5568; stroke-width: 1.5; } .lost { stroke: #c53030; stroke-dasharray: 5 4; }
.lost-word { fill: #c53030; } .life { stroke: #a0aec0; stroke-dasharray: 2 4; }
@media (prefers-color-scheme: dark) {
  svg { background: #1a202c; } text { fill: #e2e8f0; } .small { fill: #a0aec0; } path { stroke: #a0aec0; }
  rect { fill: #2a3358; stroke: #8c9eff; } .server rect { fill: #4a3a16; stroke: #ecc94b; }
  .lost { stroke: #fc8181; } .lost-word { fill: #fc8181; } .life { stroke: #4a5568; }
}
</style>
<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto-start-reverse">
<path d="M0 0 L8 4 L0 8" /></marker></defs>"""


class Box(NamedTuple):
    x: int
    y: int
    name: str
    words: tuple[str, ...] = ()
    wide: int = 170
    high: int = 64
    is_server: bool = False

    def drawn(self) -> str:
        middle = self.x + self.wide // 2
        lines = [_text(middle, self.y + 24, self.name, "middle")]
        lines += [_text(middle, self.y + 42 + 16 * row, word, "middle", "small") for row, word in enumerate(self.words)]
        kind = ' class="server"' if self.is_server else ""
        return (
            f'<g{kind}><rect x="{self.x}" y="{self.y}" width="{self.wide}" height="{self.high}" />{"".join(lines)}</g>'
        )


def mesh() -> str:
    """Who is there, and on which subjects they meet."""
    boxes = (
        Box(20, 30, "your programs", ("any client of a known API",)),
        Box(20, 250, "NATS clients", ("in any language",)),
        Box(260, 30, "gateway", ("HTTP, keys",), 110),
        Box(260, 135, "NATS, with JetStream", ("every message goes through it",), 430, is_server=True),
        Box(390, 30, "Manager", ("chooses a worker",), 140),
        Box(550, 30, "Manager", ("shares the work",), 140),
        Box(260, 270, "worker", ("a model file",), 130),
        Box(410, 270, "worker", ("a provider, a server",), 130),
        Box(560, 270, "worker", ("behind NAT: it dials out",), 160),
        Box(770, 135, "telemetry", ("books, grades",), 120),
        Box(770, 270, "Postgres", ("the books",), 120, is_server=True),
    )
    arrows = (
        _arrow(190, 62, 258, 62),
        _arrow(315, 96, 315, 133),
        _arrow(190, 270, 262, 201),
        _arrow(460, 133, 460, 96, both=True),
        _arrow(620, 133, 620, 96, both=True),
        _arrow(325, 201, 325, 268, both=True),
        _arrow(520, 201, 520, 268, both=True),
        _arrow(640, 268, 640, 201, both=True),
        _arrow(690, 167, 768, 167),
        _arrow(830, 201, 830, 268),
    )
    words = (
        _text(130, 240, s.INFER_AUTO, kind="mono"),
        _text(322, 120, s.INFER_AUTO, kind="mono"),
        _text(332, 240, "infer.<backend>.w.<id>", kind="mono"),
        _text(648, 240, s.WORKER_HEARTBEAT, kind="mono"),
        _text(694, 125, s.TELEMETRY_ANY, kind="mono"),
    )
    return _svg(910, 350, "The roles of a mesh and where they meet", [*arrows, *(box.drawn() for box in boxes), *words])


def request() -> str:
    """One request whose worker dies in mid-sentence."""
    names = ("caller", "Manager", "worker 1", "worker 2")
    at = {name: 100 + 230 * place for place, name in enumerate(names)}
    high = 480
    parts = [f'<path class="life" d="M{x} 70 V{high - 20}" />' for x in at.values()]
    parts += [Box(x - 65, 20, name, (), 130, 40).drawn() for name, x in at.items()]
    steps = (
        (100, "caller", "Manager", f"{s.INFER_AUTO}: {InferenceRequest.__name__}"),
        (140, "Manager", "worker 1", "the request, on its own subject"),
        (175, "worker 1", "Manager", Claim.__name__),
        (210, "worker 1", "Manager", "Chunk: “The capital of”"),
        (235, "Manager", "caller", "Chunk: “The capital of”"),
        (330, "Manager", "worker 2", "the request, and what was said"),
        (365, "worker 2", "Manager", "Chunk: “ France is Paris.”"),
        (390, "Manager", "caller", f"{Resumed.__name__}, Chunk"),
        (430, "worker 2", "Manager", FinalResponse.__name__),
        (455, "Manager", "caller", FinalResponse.__name__),
    )
    for y, start, end, words in steps:
        side = 4 if at[end] > at[start] else -4
        parts.append(_arrow(at[start] + side, y, at[end] - side, y))
        parts.append(_text((at[start] + at[end]) // 2, y - 6, words, "middle", "small"))
    lost = at["worker 1"]
    parts.append(f'<path class="lost" d="M{lost - 12} 258 l24 24 m0 -24 l-24 24" />')
    parts.append(_text(lost + 20, 275, "killed, frozen, or cut off", kind="small lost-word"))
    parts.append(
        _text(at["Manager"] + 10, 300, f"no {Heartbeat.__name__} for 2.5 s, or NATS tells at once", kind="small")
    )
    return _svg(890, high, "A request whose worker dies in mid-sentence", parts)


def _text(x: int, y: int, words: str, anchor: str = "start", kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{named}>{escape(words)}</text>'


def _arrow(x: int, y: int, to_x: int, to_y: int, *, both: bool = False) -> str:
    start = ' marker-start="url(#end)"' if both else ""
    return f'<path d="M{x} {y} L{to_x} {to_y}" marker-end="url(#end)"{start} />'


def _svg(wide: int, high: int, title: str, parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", STYLE, *parts, "</svg>"]) + "\n"
