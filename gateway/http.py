"""HTTP's part of a request and its answer: the body with its limits, headers, failures as statuses."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp.web import BaseRequest, RequestPayloadError, Response
from pydantic_core import from_json

from contracts import BullpenError, ErrorCode, JsonObject
from gateway.dialects import Dialect, Refused, named
from gateway.dialects.about import ids

JSON = "application/json"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TOO_LARGE = "send fewer or smaller images and files, or raise `max_payload` of the NATS server"


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure of a request as an HTTP client gets it."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after_ms: int | None = None
    may_repeat: bool = False
    """Whether a client may send the request again by itself: no work was begun, or an idempotency key keeps it from
    being done twice.
    """
    request_id: str | None = None
    is_ours: bool = False
    """Whether `param` is a field of the mesh's own request, which the client's dialect may call otherwise."""

    @classmethod
    def of(cls, error: Exception, *, keyed: bool = False) -> "Failure":
        """The failure for any exception; an unexpected one is `internal`. `keyed`: the client gave an idempotency
        key.
        """
        if isinstance(error, Refused):
            return cls(error.status, error.code or "invalid_request", error.message, error.param)
        if not isinstance(error, BullpenError):
            return cls(500, ErrorCode.INTERNAL, "the gateway failed, its log says more")
        message = error.message
        if error.code is ErrorCode.PAYLOAD_TOO_LARGE:
            message = f"{message}: {TOO_LARGE}"
        reply = getattr(error, "reply", None)
        return cls(
            error.status,
            error.code,
            message,
            error.field,
            error.retry_after_ms,
            may_repeat=error.begun_nowhere or (keyed and error.retryable),
            request_id=reply.request_id if reply is not None else None,
            is_ours=True,
        )

    def answer(self, dialect: Dialect, request_id: str, headers: Mapping[str, str]) -> Response:
        """The response. `headers`: further headers."""
        request_id = self.request_id or request_id
        told = {**headers, **(ids(request_id) if request_id else {}), **self._when_to_repeat()}
        param, message = self.param, self.message
        if self.is_ours and param is not None:
            ours, param = param, named(param, dialect.fields)
            message = f"{param}{message.removeprefix(ours)}" if message.startswith(ours) else message
        body = dialect.error(self.status, self.code, message, param, request_id)
        status = dialect.status(self.status, self.code)
        return Response(status=status, body=body, headers=told, content_type=JSON)

    def _when_to_repeat(self) -> dict[str, str]:
        told: dict[str, str] = {}
        if self.retry_after_ms is not None:
            told["retry-after"] = str(math.ceil(self.retry_after_ms / 1000))
            told["retry-after-ms"] = str(self.retry_after_ms)
        if not self.may_repeat:  # some repeat even a refused key, for minutes
            told["x-should-retry"] = "false"
        return told


async def body_of(request: BaseRequest, *, limit: int, within: float) -> bytes:
    """The request's whole body, unpacked. Raises `Refused` (400, 413, 408)."""
    too_large = Refused(f"The body is larger than {limit} bytes, which is this gateway's limit", None, 413, "too_large")
    if (request.content_length or 0) > limit:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(CONTINUE)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(within):
            while part := await request.content.readany():
                parts.append(part)
                if (size := size + len(part)) > limit:
                    raise too_large
    except RequestPayloadError:
        request.content.feed_eof()  # else the server reads on, and logs what the client did
        raise Refused("The body is not encoded as its headers say") from None
    except TimeoutError:
        raise Refused(f"The body did not come within {within:g} s", None, 408, "request_timeout") from None
    return b"".join(parts)


def headers_of(request: BaseRequest) -> dict[str, str]:
    """The headers by name in small letters; several of one name are joined."""
    found: dict[str, str] = {}
    for spelled, value in request.headers.items():
        name = spelled.lower()
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def json_object(body: bytes) -> JsonObject:
    """Parses the body. Raises `Refused` when it is no JSON object."""
    if not body.strip():
        raise Refused("The request has no body: send a JSON object")
    try:
        told = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(told, dict):
        raise Refused("The body should be a JSON object")
    return told
