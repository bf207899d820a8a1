"""Servers of OpenAI's API as they were met: shapes written by us after what their pages and users tell."""

import json
from collections.abc import Callable

from contracts import ErrorCode
from tests.backends.quirks import Json, Quirk, Refusal

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("sum", "time")]
DONE = "data: [DONE]\n\n"
TWO_CALLS = [("time", "{}"), ("sum", '{"a": 1}')]
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def event(told: object) -> str:
    return f"data: {json.dumps(told)}\n\n"


def delta(said: object, finish: str | None = None) -> Json:
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


def instead(*told: object) -> Callable[[list[str]], list[str]]:
    """These messages, whatever was asked."""
    return lambda _: [*map(event, told), DONE]


def each(change: Callable[[Json], None]) -> Callable[[list[str]], list[str]]:
    """The usual messages, each of them changed."""

    def changed(piece: str) -> str:
        if not piece.startswith("data: {"):
            return piece
        told = json.loads(piece.removeprefix("data: "))
        change(told)
        return event(told)

    return lambda pieces: [changed(piece) for piece in pieces]


def as_parts(told: Json) -> None:
    for choice in told["choices"]:
        if (text := choice["delta"].get("content")) is not None:
            choice["delta"]["content"] = [{"type": "text", "text": text}]


def null_at_the_end(told: Json) -> None:
    for choice in told["choices"]:
        choice["delta"] = choice["delta"] or None


def whole(pieces: list[str], **more: object) -> list[str]:
    """A completion in one piece, as a server sends it that does not stream."""
    message = {"role": "assistant", "content": "The capital is Paris."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    return [json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage, **more}, indent=1)]


def piece_of_call(name: str | None, arguments: str | None, **more: object) -> Json:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return delta({"tool_calls": [{"type": "function", "function": function, **more}]})


def calls(*told: Json) -> Quirk:
    """Two calls at once, as one server or the other sends them."""
    return Quirk("", instead(*told, STOP), asked={"tools": TOOLS}, calls=TWO_CALLS, finish="tool_calls", text="")


def refusing(name: str, status: int, body: object, asked: Json | None = None) -> Quirk:
    """A server that refuses a field of the question for as long as it is there."""

    def refuses(question: Json) -> Refusal | None:
        return (status, body) if name in question else None

    return Quirk("", refuses=refuses, asked=asked or {}, unsupported=tuple(asked or ()), questions=2)


def fails(status: int, body: object, error: ErrorCode, wait: tuple[int, int] | None = None, **headers: str) -> Quirk:
    return Quirk(
        "",
        refuses=lambda _: (status, body),
        error=error,
        retry_after_ms=wait,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def says(message: str, **more: object) -> Json:
    return {"error": {"message": message, **more}}


UNSUPPORTED = says("Unsupported parameter: 'temperature' is not supported with this model.", param="temperature")
NO_STREAM = says("Unsupported value: 'stream' does not support true with this model.", param="stream")
NO_TOOLS = says("No endpoints found that support tool use.", code=404)
NO_TOP_P = {"code": "Client specified an invalid argument", "error": "Argument not supported on this model: topP"}
FORBIDDEN_SEED = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}
TOO_LONG = says("Prompt contains 9000 tokens, too large for model with 8192 maximum context length")
THOUGHT = delta({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]})
BOTH_CALLS = delta(
    {
        "tool_calls": [
            {"function": {"name": "time", "arguments": None}},
            {"function": {"name": "sum", "arguments": {"a": 1}}},
        ]
    }
)
RATE = says("Rate limit reached, please try again in 1.5s", type="requests", code="rate_limit_exceeded")

STREAMS: dict[str, Quirk] = {
    "content is a list of parts": Quirk("Mistral", each(as_parts)),
    "thoughts are a part of the content": Quirk(
        "Mistral",
        lambda pieces: [event(THOUGHT), *pieces],
    ),
    "null instead of a message": Quirk("FastChat", lambda pieces: ["data: null\n\n", *pieces, "data: null\n\n"]),
    "the last delta is null": Quirk("LiteLLM", each(null_at_the_end)),
    "pieces without a delta": Quirk(
        "Azure's content filters",
        lambda pieces: [
            event({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}),
            *pieces[:2],
            event({"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {"check_offset": 0}}]}),
            *pieces[2:],
        ],
    ),
    "pieces without choices": Quirk("OpenRouter", lambda pieces: [event({"id": "1", "provider": "x"}), *pieces]),
    "comments, pings and blank lines": Quirk(
        "OpenRouter", lambda pieces: [": PROCESSING\n\n", "event: ping\ndata: ping\n\n", "\n\n", *pieces]
    ),
    "no blank line between messages": Quirk(
        "a home-made proxy", lambda pieces: [p.rstrip("\n") + "\n" for p in pieces]
    ),
    "no space behind the colon, lines end with CR LF": Quirk(
        "Spring", lambda pieces: [p.replace("data: ", "data:").replace("\n", "\r\n") for p in pieces]
    ),
    "no mark at the end": Quirk("many", lambda pieces: [p for p in pieces if p != DONE]),
    "a whole completion instead of a stream": Quirk(
        "servers that ignore `stream`", whole, content_type="application/json"
    ),
    "a whole completion as one event": Quirk("gateways", lambda pieces: [event(json.loads(whole(pieces)[0])), DONE]),
    "a whole completion that never says why it ended": Quirk(
        "LocalAI", lambda pieces: [whole(pieces)[0].replace('"stop"', "null")], content_type="application/json"
    ),
    "the whole message once more at the end": Quirk(
        "an aggregating proxy", lambda pieces: [*pieces[:-2], event(json.loads(whole(pieces)[0])), DONE]
    ),
    "a mark before the first byte": Quirk("a Windows proxy", lambda pieces: ["\ufeff" + pieces[0], *pieces[1:]]),
    "why it ended stands in the delta, in a list": Quirk(
        "a home-made proxy", lambda pieces: [*pieces[:-2], event(delta({"finish_reason": ["stop"]})), DONE]
    ),
    "counts are texts": Quirk(
        "a home-made proxy",
        lambda pieces: [*pieces[:-1], event({"choices": [], "usage": {"prompt_tokens": "7"}}), DONE],
    ),
    "thoughts are an object": Quirk(
        "a gateway", lambda pieces: [event(delta({"reasoning": {"text": "Hm."}})), *pieces]
    ),
    "an error after the end": Quirk("vLLM", lambda pieces: [*pieces[:-1], event(says("engine died"))]),
}

CALLS: dict[str, Quirk] = {
    "calls with one index": calls(
        piece_of_call("time", "{}", index=0, id="a"), piece_of_call("sum", '{"a": 1}', index=0, id="b")
    ),
    "calls with one index and no id": calls(
        piece_of_call("time", "{}", index=0), piece_of_call("sum", '{"a": 1}', index=0)
    ),
    "calls without an index": calls(
        piece_of_call("time", "{}", id="a"), piece_of_call("sum", '{"a"', id="b"), piece_of_call(None, ": 1}", id="b")
    ),
    "calls without index and id": calls(
        piece_of_call("time", ""), piece_of_call("sum", '{"a"'), piece_of_call(None, ": 1}")
    ),
    "calls with one id": calls(
        piece_of_call("time", "{}", index=0, id="x"), piece_of_call("sum", '{"a": 1}', index=1, id="x")
    ),
    "calls that repeat id and name": calls(
        piece_of_call("time", "{}", index=0, id="a"),
        piece_of_call("sum", '{"a"', index=1, id="b"),
        piece_of_call("sum", ": 1}", index=1, id="b"),
        piece_of_call("sum", "", index=1, id="b"),
    ),
    "all calls in one piece": calls(BOTH_CALLS),
    "ids are numbers": calls(
        piece_of_call("time", "{}", index=0, id=1), piece_of_call("sum", '{"a": 1}', index=1, id=2)
    ),
}

ERRORS: dict[str, Quirk] = {
    "an error in a 200": Quirk(
        "OpenRouter",
        lambda _: [json.dumps(says("Rate limited upstream", code=429, metadata={"headers": {"Retry-After": "7"}}))],
        content_type="application/json",
        error=ErrorCode.RATE_LIMITED,
        retry_after_ms=(7000, 7000),
    ),
    "an error in the middle": Quirk(
        "Groq", lambda pieces: [pieces[0], event(RATE)], error=ErrorCode.RATE_LIMITED, retry_after_ms=(1500, 1500)
    ),
    "an error without a frame": Quirk(
        "vLLM",
        instead({"object": "error", "message": "bad key", "type": "AuthenticationError", "code": 401}),
        error=ErrorCode.UPSTREAM_AUTH,
    ),
    "half a character in an error": Quirk(
        "a model", instead(says("no \ud800", code=429)), error=ErrorCode.RATE_LIMITED
    ),
    "a page instead of an answer": Quirk(
        "a captive portal",
        lambda _: ["<html>\n<body>Sign in</body></html>\n"],
        content_type="text/html",
        error=ErrorCode.UPSTREAM_ERROR,
    ),
    "no answer at all": Quirk("a proxy", lambda _: [], error=ErrorCode.UPSTREAM_ERROR),
    "plain words instead of an answer": Quirk(
        "a load balancer", lambda _: ["upstream connect error"], error=ErrorCode.UPSTREAM_ERROR
    ),
    "busy, and says for how long": fails(
        529, says("Overloaded"), ErrorCode.RATE_LIMITED, (4000, 4000), Retry_After="4"
    ),
    "a wait in milliseconds": fails(429, says("no"), ErrorCode.RATE_LIMITED, (250, 250), retry_after_ms="250"),
    "a wait in words": fails(429, RATE, ErrorCode.RATE_LIMITED, (1500, 1500)),
    "a wait until a reset": fails(
        429,
        says("no"),
        ErrorCode.RATE_LIMITED,
        (6100, 6100),
        x_ratelimit_remaining_requests="0",
        x_ratelimit_reset_requests="6s100ms",
        x_ratelimit_remaining_tokens="90",
        x_ratelimit_reset_tokens="50ms",
    ),
    "an error that is a list": fails(400, [TOO_LONG], ErrorCode.CONTEXT_LENGTH_EXCEEDED),
}

PARAMETERS: dict[str, Quirk] = {
    "no temperature": refusing("temperature", 400, UNSUPPORTED, {"temperature": 0.5}),
    "no seed": refusing("seed", 422, {"detail": [FORBIDDEN_SEED]}, {"seed": 7}),
    "no seed, in words": refusing("seed", 400, says("property 'seed' is unsupported"), {"seed": 7}),
    "no top_p, in camel case": refusing("top_p", 400, NO_TOP_P, {"top_p": 0.5}),
    "no stream_options": refusing(
        "stream_options", 400, says("Unrecognized request argument supplied: stream_options")
    ),
    "the older name of the limit": refusing(
        "max_completion_tokens", 400, says("Unknown parameter: 'max_completion_tokens'.", code="unknown_parameter")
    ),
    "no streams": Quirk(
        "o1-pro",
        whole,
        refuses=lambda body: (400, NO_STREAM) if body.get("stream") else None,
        content_type="application/json",
        questions=2,
    ),
    "no tools": Quirk(
        "OpenRouter",
        refuses=lambda body: (404, NO_TOOLS) if body.get("tools") else None,
        asked={"tools": TOOLS},
        error=ErrorCode.INVALID_REQUEST,
    ),
}

LISTS: dict[str, Quirk] = {
    f"the list of models answers {status}": Quirk("", lists=(status, says("no")))
    for status in (400, 403, 404, 405, 501)
} | {"a list without a frame": Quirk("Together", lists=(200, [{"id": "m", "type": "chat"}]))}

QUIRKS: dict[str, Quirk] = STREAMS | CALLS | ERRORS | PARAMETERS | LISTS
