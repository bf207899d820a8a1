"""The grader: every few seconds it computes grades from the books, for all Managers to follow.

One accountant at a time does this: the one that gets the lock. A grade is a row of `grades`, an event on
`metrics.grade`, and an entry of the bucket that Managers read. The rows say what the bucket should hold: if the bucket
is lost, or an operator has set a grade (which is a row as well), the entries are written again.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import structlog
from pydantic_core import to_json

from bus import Bus, BusError
from bus.kv import Bucket
from config.bounded import Latest
from contracts import Grade, GradeRecord, ModelGrades, WorkRecord, utc_now
from contracts import subjects as s
from telemetry.grading.grades import SAMPLE, Record, Standing, judge
from telemetry.store import Connection, DatabaseAway, Row, RowsRefused, Store, sql

log = structlog.get_logger(__name__)

LOCK = 0x67726164
WRITE_WITHIN = 2.0
MAX_BYTES = 64 << 20
USUAL_MEMORY = 0.9
MOST_PAIRS = 20_000
"""Pairs of a model and a worker whose usual confidence is remembered."""
RECORDS_EVERY = 60.0
"""Seconds after which Managers get every worker's record, also when no grade has changed."""


class Grading:
    def __init__(self, bus: Bus, store: Store, every: float) -> None:
        self._bus = bus
        self._store = store
        self.every = every
        self._bucket: Bucket | None = None
        self._told: dict[str, ModelGrades] = {}
        """The entries of the bucket, by model, as this accountant wrote them."""
        self._records: dict[str, dict[str, WorkRecord]] = {}
        """The newest records by model and worker, and when they were last published (loop's clock, seconds)."""
        self._records_told = float("-inf")
        self._usual: Latest[tuple[str, str], float] = Latest(MOST_PAIRS)
        self._reconnects = 0

    async def run(self) -> None:
        """Grades until cancelled. While NATS or the database is away, a round is skipped."""
        while True:
            await asyncio.sleep(self.every)
            try:
                await self.look()
            except (BusError, DatabaseAway, RowsRefused) as error:
                self._bucket = None
                log.debug("grades_not_given", error=str(error))

    async def look(self) -> list[GradeRecord]:
        """Judges every model at every worker once; returns the changes. Raises `DatabaseAway`, `BusError`."""
        changes = await self._store.perform(self._judge_all)
        for change in changes:
            log.info("graded", **change.model_dump(include={"model_id", "worker_id", "grade", "previous", "reasons"}))
            await self._bus.publish(s.METRICS_GRADE, change.to_bytes())
        await self._tell(await self._store.fetch("grades_now"))
        return changes

    async def _judge_all(self, connection: Connection) -> list[GradeRecord]:
        async with connection.transaction():
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK):
                return []  # another accountant is at it
            standings = _standings(await connection.fetch(sql("grades_now")))
            records = [
                Record(**row, usual_confidence=self._usual.get((row["model_id"], row["worker_id"])))
                for row in await connection.fetch(sql("grades_records"))
            ]
            self._records = _work(records)
            changes = [change for record in records if (change := self._judge(record, records, standings)) is not None]
            await connection.executemany(sql("insert_grade"), [_row(change) for change in changes])
        return changes

    def _judge(
        self, record: Record, records: Sequence[Record], standings: dict[tuple[str, str], Standing]
    ) -> GradeRecord | None:
        key = (record.model_id, record.worker_id)
        standing = standings.get(key)
        peers = [other for other in records if other.model_id == record.model_id and other is not record]
        if standing is None:
            return _change(record, "probation", None, ("it is new",))
        verdict = judge(record, standing, peers, surest=_surest(records, record.model_id))
        if verdict is None:
            if standing.grade != "benched":  # what it is benched for must not become what is usual
                self._remember(key, record)
            return None
        return _change(record, verdict.grade, standing.grade, verdict.reasons)

    def _remember(self, key: tuple[str, str], record: Record) -> None:
        """Keeps a moving average of the model's confidence."""
        if record.confidence is not None:
            before = self._usual.get(key, record.confidence)
            self._usual[key] = USUAL_MEMORY * before + (1 - USUAL_MEMORY) * record.confidence

    async def _tell(self, rows: Sequence[Row]) -> None:
        """Writes the grades in the rows to the bucket, where they differ."""
        if self._bucket is None or self._bus.reconnects != self._reconnects:
            self._reconnects = self._bus.reconnects
            self._bucket = await Bucket.open(self._bus, s.GRADES_BUCKET, max_age_s=0, max_bytes=MAX_BYTES)
            self._told.clear()
        now = asyncio.get_running_loop().time()
        if self._records and now - self._records_told >= RECORDS_EVERY:
            self._records_told = now
            self._told.clear()
        for grades in _by_model(rows):
            if self._told.get(grades.model_id) != grades:
                records = self._records.get(grades.model_id, {})
                await self._write(self._bucket, grades.model_copy(update={"records": records}))
                self._told[grades.model_id] = grades

    async def _write(self, bucket: Bucket, grades: ModelGrades) -> None:
        key = s.grades_key(grades.model_id)
        entry = await bucket.get(key, within=WRITE_WITHIN)
        if entry is None or entry.value != grades.to_bytes():
            await bucket.put(key, grades.to_bytes(), after=entry.revision if entry else 0, within=WRITE_WITHIN)


def _by_model(rows: Sequence[Row]) -> list[ModelGrades]:
    """The grades for Managers, without the records."""
    grades: dict[str, dict[str, Grade]] = defaultdict(dict)
    new: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        grades[row["model_id"]][row["worker_id"]] = row["grade"]
        if row["grade"] == "probation" and row["previous"] is None:
            new[row["model_id"]].append(row["worker_id"])
    since = rows[0]["proven_since"] if rows else None
    return [
        ModelGrades(model_id=model_id, workers=workers, new=tuple(new[model_id]), proven_since=since)
        for model_id, workers in grades.items()
    ]


def _work(records: Sequence[Record]) -> dict[str, dict[str, WorkRecord]]:
    by_model: dict[str, dict[str, WorkRecord]] = defaultdict(dict)
    for record in records:
        by_model[record.model_id][record.worker_id] = WorkRecord(
            answers=record.answers,
            failures=record.tries - record.answers,
            confidence=record.confidence,
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            service_ms=record.service_ms,
            first_ms=record.first_ms,
        )
    return dict(by_model)


def _standings(rows: Sequence[Row]) -> dict[tuple[str, str], Standing]:
    return {
        (row["model_id"], row["worker_id"]): Standing(
            row["grade"], row["seconds"], row["benched_ago"], row["benched_before_ago"], row["by_hand"]
        )
        for row in rows
    }


def _surest(records: Sequence[Record], but: str) -> float | None:
    """The highest confidence among the other models with at least `SAMPLE` recent answers."""
    others = (r for r in records if r.model_id != but and r.recent_answers >= SAMPLE)
    return max((r.confidence for r in others if r.confidence is not None), default=None)


def _change(record: Record, grade: Grade, previous: Grade | None, reasons: tuple[str, ...]) -> GradeRecord:
    return GradeRecord(
        model_id=record.model_id,
        worker_id=record.worker_id,
        grade=grade,
        previous=previous,
        reasons=reasons,
        created_at=utc_now(),
    )


def _row(change: GradeRecord) -> tuple[object, ...]:
    return (
        change.created_at,
        change.model_id,
        change.worker_id,
        change.grade,
        change.previous,
        to_json(change.reasons).decode(),
        change.by_hand,
    )
