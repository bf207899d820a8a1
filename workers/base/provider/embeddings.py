"""Reads providers' answers with vectors; the answers of every backend go through here.

Servers send vectors out of order, too few, empty, with NaN, or in base64 although numbers were asked for. Their indexes
restore the order; everything else is an error. The runtime checks the number and length of the vectors.
"""

from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from contracts import BullpenError, ErrorCode, JsonObject, SilenceOk
from contracts.embedding import unpacked
from contracts.response import MOST_DIMENSIONS
from workers.base.interface.backend import Delta, Embedded
from workers.base.provider.chat import counted
from workers.base.provider.errors import garbage
from workers.base.provider.streaming import patiently

T = TypeVar("T")


async def embedding(
    ask: Callable[[], Awaitable[T]], read: Callable[[T], Embedded], silence_ok: SilenceOk
) -> AsyncGenerator[Delta | Embedded, None]:
    """Signs of life while the provider computes, then the vectors. Closing the generator ends the call.

    Raises `BullpenError`, and whatever `ask` and `read` raise.
    """
    answers: list[T] = []

    async def asked() -> AsyncIterator[T]:
        return _single(await ask())

    async with aclosing(patiently(asked, answers.append, silence_ok)) as signs:
        async for sign in signs:
            yield sign
    yield read(answers[0])


async def _single(answer: T) -> AsyncGenerator[T, None]:
    yield answer


def vector(told: object) -> tuple[float, ...]:
    """One vector, from numbers or base64. Raises `BullpenError(upstream_error)` when it is neither."""
    if isinstance(told, str):
        try:
            return unpacked(told)
        except ValueError:
            raise garbage("a vector that is not base64") from None
    if not isinstance(told, list | tuple) or len(told) > MOST_DIMENSIONS:
        raise garbage("a vector that is no list of numbers")
    try:
        return tuple(array("d", told))
    except (TypeError, OverflowError):
        raise garbage("a vector with what is no number") from None


def listed(told: object) -> Embedded:
    """The vectors of an answer in the form that most providers share. Raises `BullpenError(upstream_error)`."""
    body: JsonObject = told if isinstance(told, dict) else {}
    data, usage = body.get("data"), body.get("usage")
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise garbage("an answer without vectors")
    vectors = [vector(one.get("embedding")) for one in _in_order(data)]
    return Embedded(vectors, counted(usage.get("prompt_tokens")) if isinstance(usage, dict) else None)


def _in_order(data: list[Any]) -> list[Any]:
    """The vectors in the order of their indexes, if they have any. Raises when an index occurs twice or is missing:
    then a vector's text is unknown.
    """
    indexes = [one.get("index") for one in data]
    if all(index is None for index in indexes):
        return data
    places = {index: one for index, one in zip(indexes, data, strict=True) if isinstance(index, int)}
    if sorted(places) != list(range(len(data))):
        raise garbage("vectors whose indexes do not fit the texts")
    return [places[index] for index in range(len(data))]


def other_dimensions(wanted: int, got: int) -> BullpenError:
    """The error of a model whose vectors cannot be shortened to the length that the caller wants."""
    why = f"this model's vectors have {got} numbers, not {wanted}"
    return BullpenError(ErrorCode.INVALID_REQUEST, why, field="dimensions", fault="model")
