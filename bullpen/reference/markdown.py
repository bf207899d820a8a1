"""Tables and headings of pages that are made."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, with what would break it escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def made_page(title: str, how: str, *parts: str) -> str:
    """A whole page. `how`: the command that makes it."""
    return "\n\n".join([f"<!-- Made by `{how}`: do not edit -->", f"# {title}", *parts]) + "\n"
