"""Writes every subject with its messages as an AsyncAPI 3 document: `python -m contracts.asyncapi docs/reference`.

The subjects are those of `contracts/subjects.py`, the messages those of the models. A test compares the document with
both, and with the table in docs/wire.md.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import contracts as c
from config import VERSION
from contracts import subjects as s
from contracts.schemas import READ, Described, as_text

Json = dict[str, Any]
Role = Literal["caller", "manager", "worker", "telemetry", "gateway", "admin", "server", "onlooker"]
Models = tuple[type[BaseModel], ...]

FILE = "asyncapi.json"
ANYTHING = "Anything"
"""A message that no model describes."""
EVENTS_AT_ONCE = 256

ANSWERS: Models = (c.InferenceResponse, c.Chunk, c.Resumed, c.FinalResponse, c.ErrorReply)
VECTORS: Models = (c.EmbeddingResponse, c.ErrorReply)
TO_MANAGER: Models = (c.Claim, c.Progress, c.Chunk, c.FinalResponse, c.ErrorReply)
PARAMETERS = {
    "backend": "The kind of worker: 1 to 64 of A-Z a-z 0-9 _ -",
    "worker_id": "The worker: 1 to 64 of A-Z a-z 0-9 _ -",
    "manager_id": "The Manager: 1 to 64 of A-Z a-z 0-9 _ -",
    "task_id": "The caller's name for the task; every other character than A-Z a-z 0-9 _ - is %XX",
    "model_id": "The model's name; every other character than A-Z a-z 0-9 _ - is %XX",
}


class Subject(NamedTuple):
    address: str
    summary: str
    says: tuple[Role, ...]
    hears: tuple[Role, ...]
    messages: Models = ()
    """None: a message that no model describes."""
    replies: Models = ()
    queue: str | None = None
    several: bool = False
    """A message may also be a list of them."""
    replied: bool = False
    """Answered with what no model describes."""

    @property
    def key(self) -> str:
        return re.sub(r"\W+", "_", self.address).strip("_")


def subjects() -> tuple[Subject, ...]:
    """Every subject of the mesh, in the order of docs/wire.md."""
    caller: tuple[Role, ...] = ("caller", "gateway")
    q = s.INFER_QUEUE
    backend, worker, manager, task, model = "{backend}", "{worker_id}", "{manager_id}", "{task_id}", "{model_id}"
    request, texts = (c.InferenceRequest,), (c.EmbeddingRequest,)
    order = (c.ControlRequest,)
    return (
        Subject(
            s.INFER_AUTO, "A request for whichever worker suits it best", caller, ("manager",), request, ANSWERS, q
        ),
        Subject(
            _made(s.infer_backend, backend),
            "A request for one kind of worker",
            caller,
            ("worker",),
            request,
            ANSWERS,
            q,
        ),
        Subject(
            _made(s.infer_worker, backend, worker),
            "A request that a Manager has given to this worker",
            *(("manager",), ("worker",), request, TO_MANAGER),
        ),
        Subject(s.EMBED_AUTO, "Texts whose vectors are wanted", caller, ("manager",), texts, VECTORS, q),
        Subject(
            _made(s.asked_backend, backend, kind="embed"),
            "Texts for one kind of worker",
            *(caller, ("worker",), texts, VECTORS, q),
        ),
        Subject(
            _made(s.asked_worker, backend, worker, kind="embed"),
            "Texts that a Manager has given to this worker",
            *(("manager",), ("worker",), texts, TO_MANAGER),
        ),
        Subject(s.INFER_CANCEL, "Stop this task", caller, ("manager", "worker"), (c.CancelRequest,)),
        Subject(
            s.INFER_STATUS,
            "Which Manager has this task? The others are silent",
            *(("caller", "gateway"), ("manager",), (c.StatusRequest,), (c.StatusReply,)),
        ),
        Subject(
            s.INFER_FEEDBACK,
            "How good an answer was",
            ("caller",),
            ("telemetry",),
            (c.Feedback,),
            queue=q,
            replied=True,
        ),
        Subject(
            s.JOBS_SUBMIT,
            "A durable request, kept in stream JOBS; the reply is JetStream's own acknowledgement",
            *(("caller",), ("manager",), request),
            replied=True,
        ),
        Subject(
            _made(s.result, task),
            "The answer of a job, kept in stream RESULTS",
            *(("manager",), ("caller",), (c.InferenceResponse, c.EmbeddingResponse, c.ErrorReply)),
        ),
        Subject(
            _made(s.worker_heartbeat, backend, worker),
            "The worker's state, every second",
            *(("worker",), ("manager", "gateway"), (c.Heartbeat,)),
        ),
        Subject(s.WORKER_HEARTBEAT, "The same of every worker", ("worker",), ("onlooker",), (c.Heartbeat,)),
        Subject(
            _made(s.worker_control, worker),
            "An order to this worker",
            *(("admin", "gateway", "manager"), ("worker",), order, (c.ControlReply,)),
        ),
        Subject(
            _made(s.manager_control, manager),
            "An order to this Manager",
            *(("admin", "gateway"), ("manager",), order, (c.ManagerReply,)),
        ),
        Subject(
            s.BOOKS_QUERY,
            "What stands in the books",
            *(("gateway",), ("telemetry",), (c.BooksQuery,), (c.BooksReply, c.ErrorReply), q),
        ),
        Subject(
            s.BOOKS_GRADE,
            "A decision by hand about a model",
            *(("gateway",), ("telemetry",), (c.GradeOrder,), (c.BooksReply, c.ErrorReply), q),
        ),
        Subject(
            s.GATEWAY_KEY_USE,
            "What API keys have used at one gateway, for all others",
            *(("gateway",), ("gateway",), (c.KeyUse,)),
        ),
        Subject(
            s.METRICS_MESH,
            "Figures of each Manager and accountant, every 2 s",
            *(("manager", "telemetry"), ("onlooker",), (c.MeshMetrics, c.TelemetryMetrics)),
        ),
        Subject(
            _made(s.metrics_model, model),
            "Figures of this model, every 2 s",
            *(("manager",), ("onlooker",), (c.ModelMetrics,)),
        ),
        Subject(
            _made(s.metrics_worker, worker),
            "Figures of this worker, every 2 s",
            *(("manager",), ("onlooker",), (c.WorkerMetrics,)),
        ),
        Subject(s.METRICS_ROUTE, "One event per choice of a worker", ("manager",), ("onlooker",), (c.RouteDecision,)),
        Subject(
            s.METRICS_GRADE,
            "A model at a worker was promoted or demoted",
            *(("telemetry",), ("onlooker",), (c.GradeRecord,)),
        ),
        Subject(s.METRICS_BUDGET, "A budget is nearly spent", ("manager",), ("onlooker",), (c.BudgetMetrics,)),
        *_booked(),
        Subject(
            s.TELEMETRY_CHECK,
            "Whether stream TELEMETRY takes what is written; nothing is booked",
            *(("admin",), ("telemetry",)),
        ),
        Subject(s.SYS_CONNECT, "The server's own event: a client has connected", ("server",), ("manager",)),
        Subject(s.SYS_DISCONNECT, "The server's own event: a client has left", ("server",), ("manager", "gateway")),
        *(
            Subject(
                f"$SRV.{verb}",
                f"Service discovery (ADR-32): {what}",
                *(("onlooker",), ("manager", "worker", "telemetry", "gateway")),
                replied=True,
            )
            for verb, what in (("PING", "who is there"), ("INFO", "what each serves"), ("STATS", "how much it did"))
        ),
    )


def _booked() -> Iterator[Subject]:
    booking: tuple[Role, ...] = ("manager", "worker")
    rows: tuple[tuple[str, str, tuple[Role, ...], type[BaseModel]], ...] = (
        (s.TELEMETRY_RESPONSE, "A row of the books for each request", booking, c.ResponseRecord),
        (s.TELEMETRY_ATTEMPT, "A row for each attempt", booking, c.AttemptRecord),
        (s.TELEMETRY_WORKER, "A worker changed its state", ("manager",), c.WorkerEventRecord),
        (s.TELEMETRY_FEEDBACK, "Feedback, to be booked", ("telemetry", "manager"), c.FeedbackRecord),
    )
    for address, summary, says, model in rows:
        yield Subject(address, f"{summary}; kept in stream TELEMETRY", says, ("telemetry",), (model,), several=True)


def _made(make: Any, *names: str, **more: str) -> str:
    """The subject that `make` makes of names, with their placeholders in its place."""
    plain = [name.strip("{}") for name in names]
    address: str = make(*more.values(), *plain)
    parts = [f"{{{part}}}" if part in plain and place else part for place, part in enumerate(address.split("."))]
    return ".".join(parts)


def document() -> Json:
    """The whole mesh as AsyncAPI 3.0. An operation is named after the role that sends or receives."""
    known = subjects()
    carried: set[type[BaseModel]] = {c.Go, *(model for one in known for model in (*one.messages, *one.replies))}
    models = sorted(carried, key=lambda model: model.__name__)
    references, definitions = models_json_schema(
        [(model, "validation" if model in READ else "serialization") for model in models],
        schema_generator=Described,
        ref_template="#/components/schemas/{model}",
    )
    payloads = {model.__name__: reference for (model, _), reference in references.items()}
    several = {model.__name__ for one in known if one.several for model in one.messages}
    messages = {name: _message(name, payload, name in several) for name, payload in payloads.items()}
    replies = sorted({model.__name__ for one in known for model in one.replies})
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Bullpen",
            "version": VERSION,
            "description": "Every NATS subject of the mesh, who speaks and who listens there, and each message. "
            "What the messages mean, their headers and their order: docs/wire.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"mesh": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "A NATS server"}},
        "channels": {
            **{one.key: _channel(one) for one in known},
            "claim_reply": {
                "address": None,
                "description": "The reply subject of a worker's Claim: a worker whose model costs money waits there.",
                "messages": _named(["Go"]),
            },
            "reply": {
                "address": None,
                "description": "The reply subject of the request, an inbox. An empty message ends a stream (ADR-47).",
                "messages": _named([*replies, ANYTHING]),
            },
        },
        "operations": dict(_operations(known)),
        "components": {
            "messages": {**messages, ANYTHING: {"name": ANYTHING, "title": "What no model describes", "payload": {}}},
            "schemas": _without_discriminators(definitions["$defs"]),
        },
    }


def _without_discriminators(schema: Any) -> Any:
    """OpenAPI's kind, which AsyncAPI refuses; the constants of the alternatives say the same."""
    if isinstance(schema, dict):
        told = {name: _without_discriminators(part) for name, part in schema.items()}
        return {name: part for name, part in told.items() if name != "discriminator" or "propertyName" not in part}
    return [_without_discriminators(part) for part in schema] if isinstance(schema, list) else schema


def _message(name: str, payload: Json, several: bool) -> Json:
    listed = {"oneOf": [payload, {"type": "array", "items": payload, "maxItems": EVENTS_AT_ONCE}]}
    return {"name": name, "title": name, "payload": listed if several else payload}


def _named(names: list[str]) -> Json:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _channel(one: Subject) -> Json:
    names = re.findall(r"\{(\w+)\}", one.address)
    channel: Json = {"address": one.address, "summary": one.summary, "messages": _named(_names(one.messages))}
    if names:
        channel["parameters"] = {name: {"description": PARAMETERS[name]} for name in names}
    return channel


def _names(models: Models) -> list[str]:
    return [model.__name__ for model in models] or [ANYTHING]


def _operations(known: tuple[Subject, ...]) -> Iterator[tuple[str, Json]]:
    for one in known:
        for action, roles in (("send", one.says), ("receive", one.hears)):
            for role in roles:
                yield f"{role}_{action}_{one.key}", _operation(one, action, role)
    for action, role in (("send", "manager"), ("receive", "worker")):
        yield (
            f"{role}_{action}_go",
            {
                "action": action,
                "channel": {"$ref": "#/channels/claim_reply"},
                "summary": "The Manager's word to spend",
                "tags": [{"name": role}],
            },
        )


def _operation(one: Subject, action: str, role: Role) -> Json:
    made: Json = {
        "action": action,
        "channel": {"$ref": f"#/channels/{one.key}"},
        "summary": one.summary,
        "tags": [{"name": role}],
    }
    if one.queue and action == "receive":
        made["bindings"] = {"nats": {"queue": one.queue, "bindingVersion": "0.1.0"}}
    if one.replies or one.replied:
        replies = [{"$ref": f"#/channels/reply/messages/{name}"} for name in _names(one.replies)]
        made["reply"] = {"channel": {"$ref": "#/channels/reply"}, "messages": replies}
    return made


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m contracts.asyncapi FOLDER")
    (Path(sys.argv[1]) / FILE).write_text(as_text(document()), encoding="utf-8")
