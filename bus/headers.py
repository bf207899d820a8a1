"""The headers of a message, as they are on the wire."""

Headers = dict[str, str]

STATUS, DESCRIPTION = "Status", "Description"


def read_headers(block: bytes | None) -> Headers:
    """The headers by name; if a name occurs several times, its first value. The server's status line gives two more:
    `Status` and `Description`.
    """
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
