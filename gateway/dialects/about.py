"""Who answered, at what cost: headers of a whole answer, and comments at the end of a stream, where it is too late for
headers."""

from contracts import Answer


def ids(request_id: str) -> dict[str, str]:
    """OpenAI's clients read the one, Anthropic's the other."""
    return {"x-request-id": request_id, "request-id": request_id}


def about(response: Answer) -> dict[str, str]:
    """By the header's name."""
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
    """The same as comments of an event stream, which its readers pass over."""
    return "".join(f": {name}: {value}\n" for name, value in about(response).items()).encode() + b"\n"


def visible(text: str) -> str:
    """As much of a text as may stand in a header."""
    return "".join(sign if " " <= sign <= "~" else "?" for sign in text)[:1024]
