"""Writes the public messages as JSON Schema, one file each: `python -m contracts.schemas docs/schemas`.

What strangers send us is described as we read it, what we send as we write it. A test compares the
files with the models, so the two cannot drift apart.
"""

import ast
import inspect
import json
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

import contracts as c

READ: tuple[type[BaseModel], ...] = (
    c.InferenceRequest,
    c.EmbeddingRequest,
    c.CancelRequest,
    c.Feedback,
    c.ControlRequest,
    c.StatusRequest,
    c.Heartbeat,
    c.BooksQuery,
    c.GradeOrder,
)
"""Sent by callers, tools, and workers in any language."""
WRITTEN: tuple[type[BaseModel], ...] = (
    *(c.InferenceResponse, c.EmbeddingResponse, c.ErrorReply, c.Chunk, c.Resumed, c.FinalResponse),
    *(c.ControlReply, c.ManagerReply, c.StatusReply, c.Claim, c.Progress, c.Go),
    *(c.RouteDecision, c.MeshMetrics, c.WorkerMetrics, c.ModelMetrics, c.TelemetryMetrics),
    c.BudgetMetrics,
    *(c.ResponseRecord, c.AttemptRecord, c.WorkerEventRecord, c.FeedbackRecord),
    c.ApiKey,
    c.KeyUse,
    c.BooksReply,
)


class Described(GenerateJsonSchema):
    """Adds the docstrings of attributes as descriptions, and leaves out titles that only repeat a field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        for field, description in described_fields(schema["cls"]).items():
            alias = schema["cls"].model_fields[field].alias or field
            if alias in made.get("properties", {}):
                made["properties"][alias]["description"] = description
        return made


def schemas() -> dict[str, dict[str, Any]]:
    """Every public message's schema, by the name of its model."""
    read = {model.__name__: _schema(model, "validation") for model in READ}
    return read | {model.__name__: _schema(model, "serialization") for model in WRITTEN}


def _schema(model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
    made = model.model_json_schema(by_alias=True, schema_generator=Described, mode=mode)
    return {"$schema": Described.schema_dialect, **made}


def as_text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    """Writes every schema into the folder, and removes those of messages that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f"{name}.json": as_text(schema) for name, schema in schemas().items()}
    for file in folder.glob("*.json"):
        if file.name not in wanted:
            file.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


def described_fields(model: type[BaseModel]) -> dict[str, str]:
    """The strings that stand under the model's fields, its parents' too."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls.__module__.partition(".")[0] != "pydantic":
            body = ast.parse(dedent(inspect.getsource(cls))).body[0]
            assert isinstance(body, ast.ClassDef)
            found |= _under_fields(body)
    return {field: text for field, text in found.items() if field in model.model_fields}


def _under_fields(body: ast.ClassDef) -> dict[str, str]:
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m contracts.schemas FOLDER")
    write(Path(sys.argv[1]))
