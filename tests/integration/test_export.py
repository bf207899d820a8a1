"""Rows of the books as CSV and Parquet: all of them, exact, harmless in a spreadsheet, in bounded memory."""

import asyncio
import csv
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest

from contracts import ErrorCode, OpenModel, Outcome, new_id
from telemetry.columns import WORDS
from telemetry.reading import export
from telemetry.reading.export import KEYS, Csv, ExportQuery, Table
from telemetry.reading.parquet import Parquet
from telemetry.store import Connection, Store
from telemetry.upkeep.migrate import migrate
from tests.books import NOW, attempt, feedback, response, worker_event
from tests.cli import ROOT, bullpen, environment

EXACT = Decimal("12345678901.00000000000000012345")
SECRET = "what nobody may read"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = Store(database_url, 10)
    await migrate(store)
    yield store
    await store.close()


async def save(store: Store, table: str, *records: OpenModel) -> None:
    await store.save({table: [record.to_bytes() for record in records]})


async def execute(store: Store, statement: str) -> None:
    async def work(connection: Connection) -> None:
        await connection.execute(statement)

    await store.perform(work)


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def wish(table: Table = "responses", **more: Any) -> ExportQuery:
    whole = {"since": NOW - timedelta(days=1), "until": NOW + timedelta(days=1)}
    return ExportQuery(**{"table": table, **whole, **more})


async def rows(store: Store, asked: ExportQuery) -> list[dict[str, str]]:
    """As somebody reads them who opens the CSV."""
    file = StringIO()
    assert await export.export(store, asked, Csv(file, await export.columns(store, asked))) >= 0
    return list(csv.DictReader(StringIO(file.getvalue())))


async def test_money_is_exact_times_are_utc_and_the_unknown_is_empty(store: Store) -> None:
    told = response(cost_usd=None, ttft_ms=None)
    await save(store, "responses", told)
    await execute(store, f"UPDATE responses SET cost_usd = '{EXACT}', created_at = '2026-03-01 12:30:00.000001+05:30'")
    (row,) = await rows(store, wish())
    assert row["cost_usd"] == str(EXACT)
    assert row["created_at"] == "2026-03-01T07:00:00.000001Z"
    assert (row["request_id"], row["ttft_ms"], row["simulated"]) == (told.request_id, "", "false")
    await execute(store, "UPDATE responses SET cost_usd = 0.00000015")
    assert (await rows(store, wish()))[0]["cost_usd"] == "0.00000015"


async def test_every_row_comes_once_whatever_the_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PAGE", 3)
    asked = [new_id() for _ in range(7)]
    tries = [attempt(request_id=name, attempt=number) for name in asked for number in (1, 2)]
    await save(store, "responses", *(response(request_id=name) for name in asked))
    await save(store, "attempts", *tries)
    await save(store, "feedback", *(feedback() for _ in range(6)))
    await save(store, "worker_events", *(worker_event() for _ in range(4)))
    await execute(
        store,
        f"INSERT INTO grades (created_at, model_id, worker_id, grade) "
        f"SELECT '{NOW}', 'm', 'w', 'senior' FROM generate_series(1, 5)",
    )
    assert [row["request_id"] for row in await rows(store, wish())] == sorted(asked)
    assert [(row["request_id"], row["attempt"]) for row in await rows(store, wish("attempts"))] == [
        (name, number) for name in sorted(asked) for number in ("1", "2")
    ]
    counts: dict[Table, int] = {"feedback": 6, "worker_events": 4, "grades": 5}
    for table, count in counts.items():
        found = await rows(store, wish(table))
        (key,) = KEYS[table]
        assert len({row[key] for row in found}) == len(found) == count


async def test_filters_combine(store: Store) -> None:
    def told(task: str, **of: Any) -> tuple[OpenModel, OpenModel]:
        whole = response(task_id=task, **of)
        return whole, attempt(
            request_id=whole.request_id, task_id=task, created_at=whole.created_at, model_id=whole.model_id
        )

    both = [
        told("0", metadata={"tenant": "a"}),
        told("1", metadata={"tenant": "a"}, model_id="other"),
        told("2", metadata={"tenant": "b"}),
        told("3", metadata={"tenant": "a"}, created_at=NOW - timedelta(days=3)),
        told("4", metadata={"tenant": "a"}, created_at=NOW + timedelta(days=1)),
    ]
    await save(store, "responses", *(whole for whole, _ in both))
    await save(store, "attempts", *(one for _, one in both))
    await save(store, "feedback", *(feedback(task_id=str(number)) for number in range(3)), feedback(task_id="unknown"))

    async def tasks(table: Table, **more: Any) -> str:
        return "".join(sorted(row["task_id"] for row in await rows(store, wish(table, **more))))

    for table in ("responses", "attempts"):
        assert await tasks(table) == "012"
        assert await tasks(table, tenant="a", model="m") == "0"
        assert await tasks(table, tenant="a", since=NOW - timedelta(days=9), until=NOW) == "3"
        assert await tasks(table, tenant="' OR true --") == ""
    assert await tasks("feedback") == "012unknown"
    assert await tasks("feedback", tenant="a") == "01"
    assert await tasks("feedback", tenant="a", model="other") == "1"


async def test_words_leave_only_when_they_are_asked_for(store: Store) -> None:
    said = {"prompt": SECRET, "output": SECRET, "context": {"a": SECRET}, "metadata": {"tenant": "t", "note": SECRET}}
    await save(store, "responses", response(**said, error_message=SECRET))
    await save(store, "attempts", attempt(error_message=SECRET, outcome=Outcome.FAILED, error_code=ErrorCode.INTERNAL))
    await save(store, "feedback", feedback(comment=SECRET))
    for table in ("responses", "attempts", "feedback"):
        (figures,) = await rows(store, wish(table))
        (everything,) = await rows(store, wish(table, content=True))
        assert SECRET not in str(figures)
        words = WORDS & everything.keys()
        assert words == everything.keys() - figures.keys()
        assert all(SECRET in everything[name] for name in words)
    assert (await rows(store, wish()))[0]["tenant"] == "t"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
async def test_a_spreadsheet_takes_nothing_for_a_formula(store: Store, start: str) -> None:
    evil = f'{start}cmd|"/C calc"!A0'
    await save(store, "responses", response(task_id="t", model_id=evil, output=evil, prompt="1=1, -2"))
    (row,) = await rows(store, wish(content=True))
    assert (row["model_id"], row["output"], row["prompt"]) == (f"'{evil}", f"'{evil}", "1=1, -2")
    assert (await rows(store, wish(model=evil)))[0]["task_id"] == "t"


async def test_parquet_has_every_value_as_it_is(store: Store, tmp_path: Path) -> None:
    whole = response(model_id="=1", output=None, metadata={"tenant": "a"})
    await save(store, "responses", whole)
    await execute(store, f"UPDATE responses SET cost_usd = '{EXACT}'")
    asked = wish(content=True)
    with Parquet(tmp_path / "r.parquet", await export.columns(store, asked)) as sink:
        assert await export.export(store, asked, sink) == 1
    (row,) = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert (row["cost_usd"], row["model_id"], row["output"]) == (EXACT, "=1", None)
    assert row["created_at"] == NOW
    assert (row["request_id"], row["tokens_used"], row["simulated"]) == (whole.request_id, 30, False)


@pytest.mark.parametrize("table", get_args(Table))
async def test_an_empty_table_has_its_columns_in_both_formats(store: Store, tmp_path: Path, table: Table) -> None:
    columns = await export.columns(store, wish(table, content=True))
    file = StringIO()
    assert await export.export(store, wish(table), Csv(file, columns)) == 0
    with Parquet(tmp_path / "empty.parquet", columns):
        pass
    names = [column.name for column in columns]
    assert file.getvalue() == ",".join(names) + "\n"
    assert pq.read_table(tmp_path / "empty.parquet").column_names == names
    assert set(KEYS[table]) <= set(names)


# The command


async def test_export_writes_to_standard_output_or_to_a_file(store: Store, database_url: str, tmp_path: Path) -> None:
    await save(store, "responses", *(response(metadata={"tenant": f"t{number}"}) for number in range(3)))
    env, out = {"DATABASE_URL": database_url}, tmp_path / "r.csv"
    told = await bullpen("export", "responses", env=env)
    assert len(list(csv.DictReader(StringIO(told.out)))) == 3
    written = await bullpen("export", "responses", "--tenant", "t1", "--out", str(out), env=env)
    assert (written.code, written.out) == (0, "")
    assert [row["tenant"] for row in csv.DictReader(StringIO(out.read_text()))] == ["t1"]
    parquet = await bullpen("export", "responses", "--format", "parquet", "--out", str(out), env=env)
    assert parquet.code == 0
    assert pq.read_table(out).num_rows == 3


async def test_what_parquet_cannot_hold_is_told_and_nothing_is_left(
    store: Store, database_url: str, tmp_path: Path
) -> None:
    await save(store, "responses", response())
    await execute(store, "UPDATE responses SET cost_usd = 1e-30")
    arguments = ("export", "responses", "--format", "parquet", "--out", str(tmp_path / "r.parquet"))
    told = await bullpen(*arguments, env={"DATABASE_URL": database_url})
    assert told.code == 1
    assert "cost_usd" in told.err
    assert "--format csv" in told.err
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["moon"], "moon"),
        (["grades", "--tenant", "a"], "belong to no tenant"),
        (["worker_events", "--model", "a"], "belong to no model"),
        (["responses", "--format", "parquet"], "--out FILE"),
    ],
)
async def test_wrong_wishes_are_told(arguments: list[str], says: str) -> None:
    told = await bullpen("export", *arguments, env={"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"})
    assert told.code == 2
    assert says in told.err


async def test_without_pyarrow_it_says_what_to_install(
    store: Store, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "telemetry.reading.parquet")
    arguments = ("export", "responses", "--format", "parquet", "--out", str(tmp_path / "r"))
    told = await bullpen(*arguments, env={"DATABASE_URL": database_url})
    assert told.code == 2
    assert "bullpen-mesh[export]" in told.err


async def test_a_reader_who_has_seen_enough_ends_it_quietly(store: Store, database_url: str) -> None:
    await save(store, "responses", *(response(prompt="x" * 1000) for _ in range(300)))
    command = f"{sys.executable} -m bullpen export responses --content | head -n 1"
    told = await asyncio.to_thread(
        subprocess.run,
        command,
        shell=True,
        env=environment(DATABASE_URL=database_url),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert told.stdout.startswith("request_id,")
    assert told.stderr == ""


async def test_a_schema_that_is_older_or_newer_is_told(store: Store, database_url: str) -> None:
    env = {"DATABASE_URL": database_url}
    await execute(
        store,
        "UPDATE schema_migrations SET version = 9999 WHERE version = (SELECT max(version) FROM schema_migrations)",
    )
    newer = await bullpen("responses", env=env)
    await execute(store, "DELETE FROM schema_migrations WHERE version > 1")
    older = await bullpen("cost", env=env)
    await execute(store, "DROP TABLE schema_migrations")
    none = await bullpen("export", "grades", env=env)
    assert (newer.code, older.code, none.code) == (3, 3, 3)
    assert "run a newer bullpen" in newer.err
    assert "restart telemetry" in older.err
    assert "no books in this database yet" in none.err


# docs/books.md


async def test_the_questions_in_the_documentation_can_be_asked(store: Store) -> None:
    questions = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "books.md").read_text(), re.DOTALL)
    assert len(questions) >= 4
    for question in questions:
        await execute(store, question)
