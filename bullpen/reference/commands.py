"""The command line, from the commands themselves."""

from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

from bullpen.cli import COMMANDS, OTHER_NAMES, LateCommand
from bullpen.reference.markdown import table

EXAMPLES = "Examples:"


def commands() -> str:
    """Every command with its arguments and options, by what it is for."""
    parts = []
    panels = list(dict.fromkeys(panel for _, panel, _ in COMMANDS.values()))
    for panel in panels:
        parts.append(f"## {panel}")
        for name, (_, own_panel, _) in COMMANDS.items():
            if own_panel == panel:
                parts += _command(LateCommand(name).load(), f"bullpen {name}")
    others = ", ".join(f"`bullpen {other}` is `bullpen {name}`" for other, name in OTHER_NAMES.items())
    return "\n\n".join([*parts, f"Other names: {others}."])


def _command(command: Any, path: str) -> Iterator[str]:
    yield f"### {path}"
    yield from _words(command.help or "")
    if isinstance(getattr(command, "commands", None), dict):
        for name, child in command.commands.items():
            yield from _command(child, f"{path} {name}")
        return
    shown = [one for one in command.params if not getattr(one, "hidden", False)]
    shown.sort(key=lambda one: one.param_type_name != "argument")
    if shown:
        yield table(("argument or option", "", "default"), [_row(one) for one in shown])


def _words(told: str) -> Iterator[str]:
    """The help's paragraphs, with its examples as code."""
    words, _, examples = cleandoc(told).partition(EXAMPLES)
    for paragraph in words.replace("\b", "").split("\n\n"):
        if paragraph.strip():
            yield " ".join(paragraph.split())
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    if lines:
        yield "\n".join(["```text", *lines, "```"])


def _row(one: Any) -> tuple[str, str, str]:
    metavar = one.metavar or one.display_type(None).upper().replace("<INT RANGE>", "N").strip("<>")
    if one.param_type_name == "argument":
        name = f"`{metavar}`"
    else:
        spelled = ", ".join(sorted((*one.opts, *one.secondary_opts), key=len, reverse=True))
        name = f"`{spelled}`" if one.is_flag else f"`{spelled} {metavar}`"
    told = " ".join((getattr(one, "help", None) or "").split())
    plain = isinstance(one.default, str | int | float) and not isinstance(one.default, bool)
    return name, _plain(told), "required" if one.required else f"`{one.default}`" if plain else ""


def _plain(text: str) -> str:
    """`*` and `<` are themselves here, not signs of Markdown."""
    return text.replace("*", "\\*").replace("<", "&lt;")
