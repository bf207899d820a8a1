"""Prometheus's own view of our pages: what a query names, and which alerts fire when pages follow each other."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bullpen.supervision.status_server import LoopWatch, StatusServer
from bus.role_status import RoleStatus

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
_HERE = Path(sys.executable).with_name("promtool")
PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool") or (str(_HERE) if _HERE.exists() else None)
"""`make promtool` makes one beside Python; None: there is none."""
EVERY = 15
"""Seconds between two looks, as promtool is told."""
HELD = 40
"""Looks for which a page stays as it is: ten minutes."""
ADDED = {"instance", "job"}
"""Labels that Prometheus adds."""

FIRED = 'max_over_time((count(ALERTS{{alertname="{}",alertstate="firing"}}) > bool 0 or vector(0))[9m30s:15s])'

Page = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""The value of each sample, by its name and labels."""


def page_of(role: str, status: RoleStatus) -> str:
    """What stands at `/metrics` of a role that runs in this process."""
    return StatusServer(role, status, LoopWatch()).page("/metrics").body


def read(text: str, **labels: str) -> Page:
    """As Prometheus reads it, with `labels` of its own."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, tuple({**s.labels, **labels}.items())): float(s.value) for s in samples}


def labels_of(pages: Iterable[Page]) -> dict[str, set[str]]:
    """By sample, which labels it has."""
    known: dict[str, set[str]] = {}
    for page in pages:
        for name, labels in page:
            known.setdefault(name, set(ADDED)).update(label for label, _ in labels)
    return known


def wrong_names(query: str, known: dict[str, set[str]]) -> list[str]:
    """What a query names that is not there: figures, and labels that none of its figures has."""
    wrong, selected = list[str](), set[str]()
    nodes = list(_nodes(promql.parse(query)))
    for node in nodes:
        if isinstance(node, promql.VectorSelector):
            name = node.name or ""
            labels = known.get(name, set())
            selected |= labels
            wrong += [] if name in known else [name]
            wrong += [f"{name}{{{matcher.name}}}" for matcher in node.matchers.matchers if matcher.name not in labels]
    for node in nodes:
        grouped = getattr(node.modifier, "labels", ()) if isinstance(node, promql.AggregateExpr) else ()
        wrong += [f"by ({label})" for label in grouped if label not in selected]
    return wrong


def _nodes(node: Any) -> Iterable[Any]:
    yield node
    below = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "vector_selector")]
    for child in (*below, *(getattr(node, "args", None) or ())):
        if isinstance(child, promql.Expr):
            yield from _nodes(child)


def firing(directory: Path, pages: Sequence[Page], growing: str = "") -> list[set[str]]:
    """Which alerts fire during each page, when it stays for ten minutes. Needs promtool.

    `growing`: a figure that goes on growing at the pace of a second per second on the last page.
    """
    assert PROMTOOL
    alerts = [rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]]
    series = [
        {"series": f"{name}{{{_labels(labels)}}}", "values": " ".join(_values(pages, (name, labels), growing))}
        for name, labels in dict.fromkeys(key for page in pages for key in page)
    ]
    ends = [((number + 1) * HELD - 1) * EVERY for number in range(len(pages))]
    asked = [(end, alert) for end in ends for alert in alerts]
    tests = [
        {
            "expr": FIRED.format(alert),
            "eval_time": f"{end}s",
            "exp_samples": [{"labels": "{}", "value": 2}],  # never: so that promtool tells what it is
        }
        for end, alert in asked
    ]
    written = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{EVERY}s",
        "tests": [{"interval": f"{EVERY}s", "input_series": series, "promql_expr_test": tests}],
    }
    file = directory / "alerts.yaml"
    file.write_text(yaml.safe_dump(written))
    told = subprocess.run([PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    got = [line.split()[-1] for line in told.stderr.splitlines() if line.strip().startswith("got:")]
    assert len(got) == len(asked), told.stderr[:2000]
    return [
        {alert for (when, alert), value in zip(asked, got, strict=True) if when == end and float(value) == 1}
        for end in ends
    ]


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels)


def _values(pages: Sequence[Page], key: tuple[str, tuple[tuple[str, str], ...]], growing: str) -> Iterable[str]:
    for page in pages:
        value, last = page.get(key), page is pages[-1]
        for look in range(HELD):
            more = look * EVERY if last and key[0] == growing else 0
            yield "_" if value is None else repr(value + more)
