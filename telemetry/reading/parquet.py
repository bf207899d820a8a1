"""Rows of the books as a Parquet file: every value as exact as the database has it."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from telemetry.reading.export import Column, NotExact
from telemetry.store import Row

MONEY = pa.decimal128(38, 20)
"""Decimals with 18 digits before the point and 20 after it."""
TYPES = {
    "text": pa.string(),
    "jsonb": pa.string(),
    "uuid": pa.string(),
    "numeric": MONEY,
    "timestamptz": pa.timestamp("us", tz="UTC"),
    "bool": pa.bool_(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "float8": pa.float64(),
}


class Parquet:
    """Opens a file that is complete when the block ends without an error. Raises `NotExact` for money beyond
    `MONEY`.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._schema = pa.schema([(column.name, TYPES[column.kind]) for column in columns])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.close()

    def write(self, rows: Sequence[Row]) -> None:
        arrays = [_array(column, rows) for column in self._columns]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))


def _array(column: Column, rows: Sequence[Row]) -> Any:
    values = [row[column.name] for row in rows]
    if column.kind == "uuid":
        values = [value and str(value) for value in values]
    try:
        return pa.array(values, type=TYPES[column.kind])
    except pa.ArrowInvalid as error:
        raise NotExact(f"{column.name}: {error}") from error
