"""The report: figures against ones worked out by hand, and a page that nothing in the books can harm."""

import re
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bullpen.report import ReportUnavailable, render
from contracts import ErrorCode, Outcome, new_id
from telemetry.reading.figures import Figures, Period, figures
from telemetry.store import Connection, Store
from telemetry.upkeep.migrate import migrate
from tests.books import NOW, attempt, feedback, response
from tests.cli import bullpen

EVIL = "<script>alert(1)</script>\"'&{{7*7}}$x$"
PERIOD = Period(since=NOW - timedelta(days=6), until=NOW + timedelta(days=1))
YESTERDAY = NOW - timedelta(days=1)
CENT = Decimal("0.01")


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = Store(database_url, 10)
    await migrate(store)
    yield store
    await store.close()


async def asked(
    store: Store, *, cost: Decimal | None = CENT, tries: tuple[dict[str, Any], ...] = ({},), **of: Any
) -> None:
    """One request with its tries, each of which cost `cost` unless it says otherwise."""
    whole = response(**{"request_id": new_id(), **of})
    told = [
        attempt(
            **{
                "request_id": whole.request_id,
                "attempt": number,
                "created_at": whole.created_at,
                "model_id": whole.model_id or "m",
                "cost_usd": cost,
                "simulated": whole.simulated,
                **one,
            }
        )
        for number, one in enumerate(tries, 1)
    ]
    await store.save({"responses": [whole.to_bytes()], "attempts": [one.to_bytes() for one in told]})


async def grade(store: Store, when: datetime, grade: str, reason: str = "because") -> None:
    async def work(connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO grades (created_at, model_id, worker_id, grade, reasons) VALUES ($1, 'm', 'w', $2, $3)",
            when,
            grade,
            f'["{reason}"]',
        )

    await store.perform(work)


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


class Page(HTMLParser):
    """What a browser makes of it: its elements, and the text that people read."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._silent += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


async def filled(store: Store) -> Figures:
    await asked(store, metadata={"tenant": "acme"}, duration_ms=100.0)
    await asked(store, metadata={"tenant": "acme"}, duration_ms=300.0, created_at=YESTERDAY)
    await asked(store, tries=({"outcome": Outcome.FAILED, "model_id": "dear", "cost_usd": Decimal(2)}, {}))
    await asked(store, cost=None, model_id="unpriced", metadata={"tenant": "b"})
    await asked(store, status="error", error_code=ErrorCode.NO_WORKER, model_id=None, tries=())
    await asked(store, model_id="fake", simulated=True, cost=Decimal("0.5"))
    await asked(store, created_at=PERIOD.since - timedelta(seconds=1), cost=Decimal(100))
    await asked(store, created_at=PERIOD.until, cost=Decimal(100))
    return await figures(store, PERIOD)


async def test_the_sums_by_day_by_model_and_by_tenant_agree_to_the_last_digit(store: Store) -> None:
    found = await filled(store)
    assert sum(row.cost_usd or 0 for row in found.spend) == Decimal("2.53")
    assert sum(row.cost_usd or 0 for row in found.models) == Decimal("2.53")
    assert {row.tenant: row.cost_usd for row in found.tenants} == {
        "": Decimal("2.51"),
        "acme": Decimal("0.02"),
        "b": None,
    }
    assert {row.tenant: row.requests for row in found.tenants} == {"": 3, "acme": 2, "b": 1}
    assert [row.unpriced for row in found.tenants if row.tenant == "b"] == [1]
    assert sum(row.simulated_usd or 0 for row in found.spend) == Decimal("0.5")
    assert {(row.start.day, row.model_id): row.cost_usd for row in found.spend if row.model_id in ("m", "dear")} == {
        (1, "m"): Decimal("0.02"),
        (28, "m"): CENT,
        (1, "dear"): Decimal(2),
    }
    assert {row.model_id: row.error_rate for row in found.models} == {"dear": 1, "fake": 0, "m": 0, "unpriced": 0}


async def test_what_the_caller_broke_off_or_misspelled_is_no_error_of_the_mesh(store: Store) -> None:
    await filled(store)
    for code in (ErrorCode.CANCELLED, ErrorCode.NO_SUCH_MODEL):
        await asked(store, status="error", error_code=code, model_id=None, tries=())
    page = Page(render(await figures(store, PERIOD)))
    told = " ".join(page.text.split())
    assert "16.67%1 request; 2 more cancelled or not to be answered" in told


async def test_errors_and_waits_are_those_of_callers(store: Store) -> None:
    found = await filled(store)
    assert {(row.start.day, row.error_code): row.requests for row in found.requests} == {
        (1, None): 4,
        (1, "no_worker"): 1,
        (28, None): 1,
    }
    day, yesterday, all_days = (
        next(row for row in found.latency if row.start == start)
        for start in (NOW.replace(hour=0, minute=0), YESTERDAY.replace(hour=0, minute=0), None)
    )
    assert (day.p50_ms, yesterday.p50_ms, all_days.p50_ms) == (100, 300, 100)
    assert all_days.p99_ms == pytest.approx(292)


async def test_a_tenant_s_report_is_its_own(store: Store) -> None:
    await filled(store)
    await store.save({"feedback": [feedback(task_id="t", score=0.25).to_bytes()]})
    found = await figures(store, PERIOD, "acme")
    assert [(row.tenant, row.requests) for row in found.tenants] == [("acme", 2)]
    assert [(row.model_id, row.answers, row.cost_usd) for row in found.models] == [("m", 2, Decimal("0.02"))]
    assert sum(row.cost_usd or 0 for row in found.spend) == Decimal("0.02")
    assert sum(row.requests for row in found.requests) == 2
    assert (await figures(store, PERIOD, "nobody")).tenants == ()


async def test_many_tenants_are_added_up_beyond_the_dearest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.reading.figures.TENANTS_SHOWN", 2)
    for number in range(5):
        await asked(store, metadata={"tenant": f"t{number}"}, cost=number * CENT)
    rows = (await figures(store, PERIOD)).tenants
    assert [(row.tenant, row.tenants, row.cost_usd) for row in rows] == [
        ("t4", 1, 4 * CENT),
        ("t3", 1, 3 * CENT),
        (None, 3, 3 * CENT),
    ]
    assert "3 others" in Page(render(await figures(store, PERIOD))).text


async def test_the_page_says_what_is_unknown_and_what_is_made_up(store: Store) -> None:
    page = Page(render(await filled(store)))
    assert "the cost of 1 attempt is not known: the price, or the tokens." in page.text
    assert "1 answer came from simulated workers" in page.text
    assert "$0.5000 of the cost is theirs" in page.text
    assert "$2.53" in page.text
    assert "No model was promoted or demoted" in page.text
    assert page.tags >= {"svg", "table", "title", "details"}


async def test_empty_books_make_a_page_that_says_so(store: Store) -> None:
    text = Page(render(await figures(store, PERIOD))).text
    for said in (
        "There were no requests",
        "No model was tried",
        "No request ended in an error",
        "no answer to wait for",
    ):
        assert said in text


async def test_grades_are_drawn_from_the_one_that_held_before(store: Store) -> None:
    await grade(store, PERIOD.since - timedelta(days=9), "probation", "too old to count")
    await grade(store, PERIOD.since - timedelta(days=2), "regular", "good enough")
    await grade(store, NOW, "senior", EVIL.replace('"', ""))
    found = await figures(store, PERIOD)
    assert [row.grade for row in found.grades] == ["senior", "regular"]
    page = Page(render(found))
    assert "good enough" in page.text
    assert "m on w" in page.text
    assert "script" not in page.tags


async def test_names_cannot_become_part_of_the_page(store: Store) -> None:
    await asked(store, model_id=EVIL, metadata={"tenant": EVIL})
    await asked(store, model_id="\x1b[2J\x07", metadata={"tenant": "</td></table><img src=x onerror=alert(1)>"})
    for tenant in (None, EVIL):
        page = Page(render(await figures(store, PERIOD, tenant)))
        assert not page.tags & {"script", "img", "iframe", "link", "object"}
        assert EVIL in page.text
        assert "\x1b" not in page.text


async def test_the_page_needs_nothing_but_itself(store: Store) -> None:
    await grade(store, NOW, "senior")
    made = render(await filled(store))
    page = Page(made)
    policies = [
        attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert "@import" not in made
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action"):
                assert (value or "").startswith("#"), (tag, value)
    assert all(found == "#" for found in re.findall(r"url\((.)", made))


async def test_ids_are_unique_so_that_drawings_do_not_borrow_from_each_other(store: Store) -> None:
    await grade(store, NOW, "senior")
    ids = [attributes["id"] for _, attributes in Page(render(await filled(store))).elements if "id" in attributes]
    assert len(ids) > 50
    assert len(ids) == len(set(ids))


def test_every_drawing_has_a_title_and_no_colour_of_its_own() -> None:
    from bullpen.report import charts

    drawing = charts.stacked("c", "Cost <b>", PERIOD, [[1.0] * len(PERIOD.starts)], "$")
    assert 'role="img" aria-labelledby="c-title"' in drawing
    assert '<title id="c-title">Cost &lt;b&gt;</title>' in drawing
    assert "var(--c00)" in drawing
    assert not re.search(r"(?:fill|stroke): #(?!000000|ffffff)", drawing)


@pytest.mark.parametrize(
    ("length", "unit", "pieces"),
    [(timedelta(hours=5), "hour", 6), (timedelta(days=7), "day", 8), (timedelta(days=365), "week", 53)],
)
def test_a_period_is_cut_into_pieces_that_one_can_tell_apart(length: timedelta, unit: str, pieces: int) -> None:
    period = Period(since=NOW - length, until=NOW)
    assert period.unit == unit
    assert len(period.starts) == pieces
    assert period.starts[0] <= period.since < period.starts[1]
    assert period.starts[-1] < period.until <= period.starts[-1] + period.step


async def test_the_pieces_are_those_that_the_database_cuts(store: Store) -> None:
    since = datetime(2026, 1, 1, 0, 30, tzinfo=UTC)
    for length in (timedelta(days=2), timedelta(days=60), timedelta(days=200)):
        period = Period(since=since, until=since + length)
        await asked(store, created_at=since)
        await asked(store, created_at=period.until - timedelta(microseconds=1))
        found = await figures(store, period)
        cut = {row.start for row in found.spend}
        assert {period.starts[0], period.starts[-1]} <= cut <= set(period.starts)


# The command


async def test_the_report_is_written_where_it_was_asked_for(store: Store, database_url: str, tmp_path: Path) -> None:
    await asked(store, created_at=datetime.now(UTC), metadata={"tenant": "acme"})
    out = tmp_path / "r.html"
    out.write_text("old")
    env = {"DATABASE_URL": database_url}
    told = await bullpen("report", "--since", "7d", "--tenant", "acme", "--out", str(out), env=env)
    assert (told.code, told.out) == (0, f"wrote {out}\n")
    assert "tenant acme" in " ".join(Page(out.read_text()).text.split())
    assert files(tmp_path) == ["r.html"]
    figures = (await bullpen("report", "--since", "7d", "--json", env=env)).json()
    assert [row["tenant"] for row in figures["tenants"]] == ["acme"]


async def test_a_report_that_cannot_be_made_says_what_to_do(
    store: Store, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"DATABASE_URL": database_url}
    nowhere = await bullpen("report", "--out", str(tmp_path / "no" / "r.html"), env=env)
    backwards = await bullpen("report", "--since", "1d", "--until", "2d", env=env)
    assert (nowhere.code, backwards.code) == (2, 2)
    assert "cannot be written" in nowhere.err
    assert "--since must be earlier" in backwards.err
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "bullpen.report.page", raising=False)
    missing = await bullpen("report", "--out", str(tmp_path / "r.html"), env=env)
    assert missing.code == 2
    assert "bullpen-mesh[report]" in missing.err
    with pytest.raises(ReportUnavailable):
        render(await figures(store, PERIOD))
