"""What the contest came to: a table, the figures as JSON, two drawings, and the page docs/routing.md."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks import results
from benchmarks.routing.contest import NAMES, ORACLE, OURS, RIVALS, Result, contest, regret
from benchmarks.routing.world import situations

DOCS = Path(__file__).resolve().parents[2] / "docs"
KEEPS = 0.9
"""A strategy keeps the deadline when it has at least this share of the oracle's goodput."""
COLOURS = {True: "#1f6f8b", False: "#b9b4a7"}


def run(seconds: float, seeds: int, *, page: bool) -> None:
    """Plays, prints, writes `results/routing.json`; with `page` docs/routing.md and its drawings as well."""
    played = contest(seconds, range(seeds))
    for line in table(played):
        print(line)
    figures = {f"{r.situation} / {r.strategy}": asdict(r.figures) | {"regret": regret(r, played)} for r in played}
    path = results.write(
        "routing",
        {"seconds": seconds, "seeds": seeds, "results": figures},
        does_not_prove=["that real models behave like these", "anything about the time that a decision takes"],
    )
    print(f"written to {path}")
    if page:
        draw(played)
        (DOCS / "routing.md").write_text(document(played, seconds, seeds), encoding="utf-8")
        print(f"written to {DOCS / 'routing.md'}")


def table(played: Sequence[Result]) -> list[str]:
    lines = []
    for situation in dict.fromkeys(result.situation for result in played):
        lines += ["", f"{situation:20}  goodput  accepted   p50 s   p95 s   p99 s   $/1000 accepted   regret"]
        for result in (r for r in played if r.situation == situation):
            f = result.figures
            lines.append(
                f"  {result.strategy:18}  {f.goodput:7.3f}  {f.accepted:8.3f}  {f.p50_s:6.2f}  {f.p95_s:6.2f}"
                f"  {f.p99_s:6.2f}  {f.cost_per_accepted * 1000:16.4f}  {regret(result, played):7.3f}"
            )
    return lines


def draw(played: Sequence[Result]) -> None:
    """docs/routing-goodput.svg and docs/routing-cost.svg."""
    days = list(dict.fromkeys(result.situation for result in played))
    shown = [*RIVALS, "balanced", ORACLE]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bullpen", "font.size": 8}):
        figure = Figure(figsize=(9, 8), layout="constrained")
        for axes, day in zip(figure.subplots(4, 2).flat, days, strict=False):
            values = [_of(played, day, name).figures.goodput for name in shown]
            axes.barh(shown, values, color=[COLOURS[name in ("balanced", ORACLE)] for name in shown])
            axes.set(title=day, xlim=(0, 1))
            axes.invert_yaxis()
        figure.savefig(DOCS / "routing-goodput.svg", metadata={"Date": None})
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        for result in (r for r in played if r.situation == "price and quality"):
            f = result.figures
            axes.scatter(f.cost_per_accepted * 1000, f.goodput, color=COLOURS[result.ours])
            axes.annotate(result.strategy, (f.cost_per_accepted * 1000, f.goodput), (4, 4), textcoords="offset points")
        axes.set(xscale="log", xlabel="US dollars for 1,000 accepted answers", ylabel="goodput within the deadline")
        figure.savefig(DOCS / "routing-cost.svg", metadata={"Date": None})


def document(played: Sequence[Result], seconds: float, seeds: int) -> str:
    """The page, made from the figures: nobody has to keep it true by hand."""
    days = {situation.name: situation for situation in situations(seconds)}
    lines = [
        "# Who answers? The figures",
        "",
        "Made by `python -m benchmarks routing --page`: the Manager's own code (registry, estimates, breakers,",
        f"ranking) in a simulation of {seconds:g} s, {seeds} seeds, against what gateways do today and an oracle that",
        "knows how long every question will take everywhere. Goodput is the share of questions answered within their",
        "deadline. How the score is made up stands in [Why did it go there?](explain.md).",
        "",
        "![Goodput by situation](routing-goodput.svg)",
        "",
        "| situation | best rival | `balanced` | oracle | share of the oracle's |",
        "|---|---|---|---|---|",
    ]
    for day, situation in days.items():
        rival = max((_of(played, day, name) for name in RIVALS), key=lambda r: r.figures.goodput)
        ours, oracle = _of(played, day, "balanced"), _of(played, day, ORACLE)
        lines.append(
            f"| {day}: {situation.says} | {rival.figures.goodput:.3f} ({rival.strategy}) | {ours.figures.goodput:.3f} |"
            f" {oracle.figures.goodput:.3f} | {1 - regret(ours, played):.1%} |"
        )
    lines += [
        "",
        "## What an accepted answer costs",
        "",
        "Four models; the dearest costs 300 times as much as the cheapest and answers twice as many questions well.",
        f"Of those who reach {KEEPS:.0%} of the oracle's goodput:",
        "",
        "![Cost and goodput](routing-cost.svg)",
        "",
        "| strategy | US dollars for 1,000 accepted answers | accepted | goodput |",
        "|---|---|---|---|",
    ]
    keeping = [r for r in played if r.situation == "price and quality" and regret(r, played) <= 1 - KEEPS]
    for result in sorted(keeping, key=lambda r: r.figures.cost_per_accepted):
        f = result.figures
        name = f"`{result.strategy}`" if result.ours else result.strategy
        lines.append(f"| {name} | {f.cost_per_accepted * 1000:.3f} | {f.accepted:.1%} | {f.goodput:.1%} |")
    lines += ["", "## Everything", "", "```", *(line for line in table(played)), "```", ""]
    lines += [
        "What it does not say: that real models behave like these. The workers' times, the models' qualities and the",
        "arrivals are drawn from distributions; the rivals are their documented rules, not their programs.",
        "",
    ]
    return "\n".join(lines)


def _of(played: Sequence[Result], day: str, name: str) -> Result:
    assert name in (*NAMES, *OURS)
    return next(r for r in played if r.situation == day and r.strategy == name)
