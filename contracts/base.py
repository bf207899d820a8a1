"""The two kinds of message: requests of callers, and messages between roles.

A request is read strictly: a wrong type or an unknown field is an error that names the field, because a typo that
passes silently costs its caller an afternoon. Messages between roles ignore unknown fields, so that versions can mix
during an upgrade.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Self

import uuid_utils
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError


class StrictModel(BaseModel):
    """A message from outside: nothing is coerced, nothing unknown is accepted."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        hide_input_in_errors=True,  # prompts do not belong in logs
    )


class OpenModel(BaseModel):
    """A message between our roles, or an answer: unknown fields are ignored, so versions can mix."""

    model_config = ConfigDict(
        extra="ignore",
        allow_inf_nan=False,
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    @classmethod
    def built(cls, values: dict[str, Any]) -> Self:
        """Makes a message from values of our own, without checks. `values` has every field, each of the right type.

        `model_construct` does the same in ten times as long, because it looks for missing fields.
        """
        message = cls.__new__(cls)
        object.__setattr__(message, "__dict__", values)
        object.__setattr__(message, "__pydantic_fields_set__", set(values))
        object.__setattr__(message, "__pydantic_extra__", None)
        object.__setattr__(message, "__pydantic_private__", None)
        return message

    def to_bytes(self) -> bytes:
        """The message as UTF-8 JSON, as it travels."""
        return self.__pydantic_serializer__.to_json(self, by_alias=True)


def _as_number(value: Decimal) -> float:
    return float(value)


Money = Annotated[Decimal, PlainSerializer(_as_number, return_type=float, when_used="json")]
"""US dollars. Exact in Python and in Postgres; a JSON number on the wire."""

JsonObject = dict[str, Any]


# Bounds of what peers say: far more than any honest one needs. What is beyond them is no message of the wire.

MOST_TOKENS = 1_000_000_000_000
MOST_MS = 100_000_000_000
"""Three years."""
MOST_WHOLE = 2**53 - 1
"""The largest whole number that every JSON reader keeps exact."""
MOST_USD = 1_000_000_000_000

Tokens = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
Milliseconds = Annotated[float, Field(ge=0, le=MOST_MS)]
WholeMilliseconds = Annotated[int, Field(ge=0, le=MOST_MS)]
Whole = Annotated[int, Field(ge=0, le=MOST_WHOLE)]
Cost = Annotated[Money, Field(ge=0, le=MOST_USD)]
Epoch = Annotated[str, Field(coerce_numbers_to_str=True, min_length=1, max_length=128)]
LONGEST_MODEL_NAME = 256


def is_model_name(name: object) -> bool:
    """Whether a model can be called so: text that hides nothing, of at most `LONGEST_MODEL_NAME` characters."""
    return isinstance(name, str) and 0 < len(name) <= LONGEST_MODEL_NAME and name.isprintable()


def _model_name(name: str) -> str:
    if not name.isprintable():
        raise PydanticCustomError("model_name", "should have printable characters only")
    return name


ModelName = Annotated[str, Field(min_length=1, max_length=LONGEST_MODEL_NAME), AfterValidator(_model_name)]


def _cut_to(most: int) -> Callable[[str], str]:
    return lambda text: text if len(text) <= most else f"{text[:most]}…"


words = _cut_to(2000)
Words = Annotated[str, AfterValidator(words)]
"""Text for people; cut when longer."""
Label = Annotated[str, AfterValidator(_cut_to(256))]
"""Short text for people, such as a host or a version."""


def _in_utc(at: datetime) -> datetime:
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


Time = Annotated[datetime, AfterValidator(_in_utc)]
"""A time; without a zone it is taken for UTC, because times with and without a zone cannot be compared."""


def new_id() -> str:
    """A UUIDv7 (RFC 9562): unique, and sorted by the time it was made."""
    return str(uuid_utils.uuid7())


def utc_now() -> datetime:
    """The wall clock, for records only. Deadlines and liveness use the loop's monotonic clock."""
    return datetime.now(UTC)
