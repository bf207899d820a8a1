"""What the reader of a stream has at its end."""

from tests.mesh import Json


def check_stream(heard: list[Json | None]) -> tuple[str, Json]:
    """The text a reader has at the end, and the last message; nothing may be missing or come twice."""
    *pieces, final, end = heard
    assert end is None
    assert final is not None
    told = [piece for piece in pieces if piece is not None]
    assert [piece["seq"] for piece in told] == list(range(len(told)))
    text = ""
    for piece in told:
        if piece["type"] == "chunk":
            text += piece["delta"]
        elif piece["mode"] == "restarted":
            text = ""
    return text, final
