"""What becomes of an event before any database sees it."""

import inspect
import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from contracts import AttemptRecord, OpenModel, Outcome, PartialUsage, ResponseRecord, utc_now
from contracts import subjects as s
from outbox import spool
from outbox.batch import packed
from telemetry.recording.entries import TABLES, Booking, Event, Unbookable, parts, read
from telemetry.store import sql
from telemetry.upkeep.migrate import available
from tests.books import attempt, feedback, response, worker_event

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Told:
    data: bytes
    subject: str = s.TELEMETRY_RESPONSE
    stream_seq: int = 7


def row_of(data: bytes, subject: str = s.TELEMETRY_RESPONSE) -> Booking:
    [entry], unbookable = read([Told(data, subject)])
    assert not unbookable
    return entry


def refused(data: bytes, subject: str = s.TELEMETRY_RESPONSE) -> Unbookable:
    entries, [unbookable] = read([Told(data, subject)])
    assert not entries
    return unbookable


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_text_is_kept_but_for_nul(text: str) -> None:
    row = from_json(row_of(response(output=text, context={"a": [text]}, metadata={text: "x"}).to_bytes()).row)
    kept = text.replace("\0", "�")
    assert (row["output"], row["context"], row["metadata"]) == (kept, {"a": [kept]}, {kept: "x"})


@pytest.mark.parametrize("text", [r"\u0000", r"\\u0000", "\\\0", "\\\\\0", "\0\0", r"a\0", r"\x00"])
def test_a_nul_that_is_only_written_about_is_left_alone(text: str) -> None:
    assert from_json(row_of(response(prompt=text).to_bytes()).row)["prompt"] == text.replace("\0", "�")


def test_each_kind_of_event_has_its_table() -> None:
    told = [response(), attempt(), feedback(), worker_event()]
    subjects = [s.TELEMETRY_RESPONSE, s.TELEMETRY_ATTEMPT, s.TELEMETRY_FEEDBACK, s.TELEMETRY_WORKER]
    entries, _ = read([Told(record.to_bytes(), subject) for record, subject in zip(told, subjects, strict=True)])
    assert [entry.table for entry in entries] == ["responses", "attempts", "feedback", "worker_events"]


def test_every_event_of_a_message_is_a_row_of_its_own_and_a_bad_one_takes_none_with_it() -> None:
    good = [response().to_bytes() for _ in range(2)]
    message = Told(
        packed([spool.Event("x", body, str(n)) for n, body in enumerate([good[0], b'{"output": 1}', good[1]])])
    )
    entries, [unbookable] = read([message])
    assert [entry.row for entry in entries] == good
    assert (unbookable.letter.body, unbookable.letter.stream_seq) == (b'{"output": 1}', 7)
    assert unbookable.event.message is message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the event: Invalid JSON"),
        (b"\xff\xfe", "the event: Invalid JSON"),
        (b"[]", "the event: Input should be an object"),
        (b'{"output":"\\ud800"}', "the event: Invalid JSON"),
        (b'{"context":' + b"[" * 5000 + b"]" * 5000 + b"}", "the event: Invalid JSON: recursion limit"),
        (
            response().to_bytes().replace(b'"status":"ok"', b'"status":"fine"'),
            "status: Input should be 'ok' or 'error'",
        ),
        (response().to_bytes().replace(b'"duration_ms":100.0', b'"duration_ms":NaN'), "duration_ms: Input should be"),
        (response().to_bytes().replace(b'"duration_ms":100.0', b'"duration_ms":1e999'), "duration_ms: Input should be"),
    ],
)
def test_what_cannot_be_read_is_kept_with_the_reason(data: bytes, reason: str) -> None:
    letter = refused(data).letter
    assert letter.reason.startswith(reason)
    assert (letter.body, letter.subject, letter.stream_seq) == (data, s.TELEMETRY_RESPONSE, 7)


def test_an_event_of_no_known_kind_is_kept() -> None:
    assert refused(response().to_bytes(), "telemetry.\0else").letter.subject == "telemetry.�else"


def test_a_reason_does_not_tell_what_people_asked() -> None:
    data = response(prompt="canary").to_bytes().replace(b'"prompt":"canary"', b'"prompt":["canary"]')
    assert refused(data).reason == "prompt: Input should be a valid string"


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 100))
def test_parts_are_small_and_keep_order(sizes: list[int], limit: int) -> None:
    entries = [Booking(Event(Told(b"", stream_seq=n), b""), "responses", b"x" * size) for n, size in enumerate(sizes)]
    found = list(parts(entries, limit))
    assert list(chain.from_iterable(found)) == entries
    assert all(sum(len(entry.row) for entry in part) <= limit or len(part) == 1 for part in found)
    assert len(found) >= 1


@pytest.mark.parametrize(("table", "record"), TABLES.values(), ids=str)
def test_the_insert_names_every_field_of_the_record(table: str, record: type[OpenModel]) -> None:
    inserted, selected = re.findall(r"(?<=[(T])\s([a-z_,\s]+?)(?=\)|FROM)", sql(f"insert_{table}"))
    assert [name.strip() for name in inserted.split(",")] == list(record.model_fields)
    assert inserted.split() == selected.split()


@pytest.mark.parametrize(("table", "record"), [("responses", ResponseRecord), ("attempts", AttemptRecord)])
def test_the_export_names_every_field_of_the_record(table: str, record: type[OpenModel]) -> None:
    selected = sql(f"export_{table}").split("FROM")[0]
    assert [name for name in record.model_fields if not re.search(rf"\b{name}\b", selected)] == []


def test_a_late_answer_changes_its_figures_and_leaves_who_was_asked_and_why_it_failed() -> None:
    updated = set(re.findall(r"(\w+) = excluded", sql("insert_attempts").split("WHERE")[0]))
    assert {"outcome", "completion_tokens", "cost_usd", "confidence"} < updated
    assert not updated & {"request_id", "attempt", "worker_id", "model_id", "epoch", "error_code", "price"}


def test_whoever_books_an_attempt_sets_every_field() -> None:
    """`AttemptRecord.of` asks for all of them and is the only way that the Manager and the workers make one."""
    asked = inspect.signature(AttemptRecord.of).parameters.values()
    assert [one.name for one in asked if one.default is not inspect.Parameter.empty] == []
    record = AttemptRecord.of(
        request_id="r-1",
        attempt=1,
        task_id="t-1",
        kind="embed",
        created_at=utc_now(),
        worker_id="w-1",
        backend="simulated",
        model_id="m",
        epoch=None,
        outcome=Outcome.OK,
        error=None,
        answer=None,
        duration_ms=1.0,
        ttft_ms=None,
        queue_ms=None,
        usage=PartialUsage(),
        cost_usd=None,
        price=None,
    )
    assert record.model_fields_set == AttemptRecord.model_fields.keys()
    sources = [file for role in ("manager", "workers") for file in (ROOT / role).rglob("*.py")]
    assert [file.name for file in sources if "AttemptRecord(" in file.read_text(encoding="utf-8")] == []


def test_migrations_are_numbered_without_gaps() -> None:
    files = available()
    assert list(files) == list(range(1, len(files) + 1))
    assert len(files) == len(list(files[1].parent.iterdir()))
