"""The settings, from the models that read them and the comments in their `config.yaml`."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import gateway
import manager
import telemetry
from bullpen.reference.markdown import table
from contracts.schemas import described_fields
from gateway.config import GatewayConfig
from manager.config import ManagerConfig
from telemetry.config import TelemetryConfig
from workers.base.interface.config import BackendConfig, ModelConfig
from workers.base.interface.discovery import discover

Json = dict[str, Any]
HEAD = ("setting", "kind", "default", "meaning")
OPEN = {"policies", "models"}
"""Settings of parts that have a table of their own, or whose names are the user's."""


def settings() -> str:
    """Every key of every `config.yaml`."""
    roles = (
        ("Manager", manager, ManagerConfig),
        ("Telemetry", telemetry, TelemetryConfig),
        ("Gateway", gateway, GatewayConfig),
    )
    parts = []
    for title, package, model in roles:
        folder = Path(str(package.__file__)).parent
        parts += [
            f"## {title}",
            _where(folder.name, f"{folder.name}/config.yaml"),
            _table(model, folder / "config.yaml"),
        ]
    parts += ["## Every worker", "These keys stand in the `config.yaml` of every backend.", _table(BackendConfig)]
    parts += ["## Each model of a worker", "Under `models:` of a worker's `config.yaml`.", _table(ModelConfig)]
    for name, backend in sorted(discover().items()):
        own = backend.load().config_class
        told = _where(name, f"workers/{name}/config.yaml")
        parts += [f"## Worker: {name}", told, _table(own, backend.path / "config.yaml", without=BackendConfig)]
    return "\n\n".join(parts)


def _where(name: str, file: str) -> str:
    prefix = f"BULLPEN_{name.upper().replace('-', '_')}__"
    return f"From `{file}`; `{prefix}<KEY>` in the environment comes first."


def _table(model: type[BaseModel], file: Path | None = None, *, without: type[BaseModel] | None = None) -> str:
    schema = model.model_json_schema()
    comments = _comments(file) if file else {}
    known = set(without.model_fields) if without else set()
    rows = [row for row in _rows(model, schema, schema, comments, "") if row[0].strip("`").split(".")[0] not in known]
    return table(HEAD, rows) if rows else "None of its own."


def _rows(
    model: type[BaseModel], part: Json, whole: Json, comments: Mapping[str, str], above: str
) -> Iterator[tuple[str, str, str, str]]:
    told = described_fields(model)
    for name, field in part.get("properties", {}).items():
        own = model.model_fields[name].annotation
        if isinstance(own, type) and issubclass(own, BaseModel) and name not in OPEN:
            nested = whole["$defs"][own.__name__]
            words = comments.get(name, "")
            yield f"`{above}{name}`", "group", "", words
            yield from _rows(own, nested, whole, {}, f"{above}{name}.")
            continue
        default = "required" if name in part.get("required", ()) else _default(field.get("default"))
        yield f"`{above}{name}`", _kind(field, whole), default, told.get(name) or comments.get(name, "")


def _default(value: Any) -> str:
    if value is None:
        return "–"
    text = {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    return f"`{text}`" if not isinstance(value, dict | list) else "see the file" if value else "none"


def _kind(field: Json, whole: Json) -> str:
    if "$ref" in field:
        return _kind(whole["$defs"][field["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in field:
        kinds = [_kind(one, whole) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        return f"list of {_kind(field['items'], whole)}" if "items" in field else "list"
    kind: str = {"object": "mapping", "string": "text"}.get(field.get("type", ""), str(field.get("type", "anything")))
    low, high = field.get("minimum"), field.get("maximum")
    bounds = [
        f"{low}–{high}" if low is not None and high is not None else "",
        f"at least {low}" if low is not None and high is None else "",
        f"above {field['exclusiveMinimum']}" if "exclusiveMinimum" in field else "",
        f"at most {high}" if high is not None and low is None else "",
    ]
    return ", ".join([kind, *(bound for bound in bounds if bound)])


def _comments(file: Path) -> dict[str, str]:
    """What stands beside each top key, or in the lines above it."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not re.match(r"# \w+: ", line):
            above.append(line.removeprefix("# "))
            continue
        if match := re.match(r"(?:# )?(\w+):[^#]*(?:\s# (.*))?$", line):
            found.setdefault(match[1], match[2] or " ".join(above))
        above = [] if not line.startswith("  ") else above
    return found
