"""The headers of a message, as they stand on the wire."""

Headers = dict[str, str]

STATUS, DESCRIPTION = "Status", "Description"


def read_headers(block: bytes | None) -> Headers:
    """By name; of several with one name the first. The server's own status line is two more of them."""
    if not block:
        return {}
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    found: Headers = {}
    status, _, description = first.removeprefix("NATS/1.0").strip().partition(" ")
    if status.isdigit():
        found[STATUS] = status
        if description:
            found[DESCRIPTION] = description.strip()
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found
