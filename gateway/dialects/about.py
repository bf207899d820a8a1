"""Which worker answered, and at what cost: headers of a whole answer, comments at the end of a stream, where headers
come too early.
"""

from contracts import Answer


def ids(request_id: str) -> dict[str, str]:
    """The header names of the request id: OpenAI's clients read the one, Anthropic's the other."""
    return {"x-request-id": request_id, "request-id": request_id}


def about(response: Answer) -> dict[str, str]:
    """The facts about an answer, by header name."""
    told = {
        **ids(response.request_id),
        "x-bullpen-worker": response.worker_id,
        "x-bullpen-model": visible(response.model_id),
        "x-bullpen-attempts": str(len(response.attempts) or 1),
    }
    if response.cost_usd is not None:
        told["x-bullpen-cost-usd"] = format(response.cost_usd, "f")
    if (confidence := getattr(response, "confidence", None)) is not None:
        told["x-bullpen-confidence"] = f"{confidence:.3f}"
    if response.unsupported:
        told["x-bullpen-unsupported"] = visible(", ".join(response.unsupported))
    told |= {f"x-bullpen-{name}": "true" for name in ("resumed", "replayed", "simulated") if getattr(response, name)}
    return told


def comments(response: Answer) -> bytes:
    """The same facts as comments of an event stream, which its readers skip."""
    return "".join(f": {name}: {value}\n" for name, value in about(response).items()).encode() + b"\n"


def visible(text: str) -> str:
    """The text for a header: up to 1024 characters, with `?` for those that a header may not have."""
    return "".join(sign if " " <= sign <= "~" else "?" for sign in text)[:1024]
