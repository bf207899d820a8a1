"""Every subject of the mesh, spelled once. What each is for stands in docs/wire.md."""

import re
from hashlib import sha256
from typing import Literal
from urllib.parse import unquote

Kind = Literal["infer", "embed"]
"""The kind of request, an answer or vectors: the first word of the subjects it is sent to."""

INFER_AUTO = "infer.auto"
EMBED_AUTO = "embed.auto"
INFER_CANCEL = "infer.cancel"
INFER_FEEDBACK = "infer.feedback"
INFER_STATUS = "infer.status"
"""Asks which Manager has a task. Only that Manager answers, so silence means that none has it."""
INFER_QUEUE = "q"
"""The queue group of all roles that share `infer.*` work; `nats reply` needs `-q q` to join it."""

JOBS_SUBMIT = "jobs.submit"
JOBS_STREAM = "JOBS"
RESULTS_STREAM = "RESULTS"
RESULT_ANY = "result.>"
JOBS_CONSUMER = "managers"
"""The durable consumer of the stream `JOBS` that all Managers share."""

WORKER_HEARTBEAT = "worker.heartbeat"
"""The open subject, for any subscriber."""
WORKER_HEARTBEATS = "worker.heartbeat.*.*"
"""For Managers: each worker on a subject of its own, so that the server can forbid it to speak for another."""

TELEMETRY_STREAM = "TELEMETRY"
TELEMETRY_ANY = "telemetry.>"
TELEMETRY_RESPONSE = "telemetry.response"
TELEMETRY_ATTEMPT = "telemetry.attempt"
TELEMETRY_WORKER = "telemetry.worker"
TELEMETRY_FEEDBACK = "telemetry.feedback"
TELEMETRY_CHECK = "telemetry.check"
"""Tests whether the stream takes messages. Nothing is booked for it."""

BOOKS_QUERY = "books.query"
BOOKS_GRADE = "books.grade"

METRICS_MESH = "metrics.mesh"
METRICS_MODELS = "metrics.model.*"
METRICS_ROUTE = "metrics.route"
METRICS_GRADE = "metrics.grade"
GRADES_BUCKET = "bullpen_grades"
"""JetStream keys and values: `grades_key(model)` → `ModelGrades`."""
METRICS_BUDGET = "metrics.budget"
KEYS_BUCKET = "bullpen_keys"
"""JetStream keys and values: the SHA-256 of an API key → `ApiKey`."""

GATEWAY_KEY_USE = "gateway.keys.used"
"""What API keys have used at one gateway, for all others."""

SYS_CONNECT = "mesh.sys.connect"
SYS_DISCONNECT = "mesh.sys.disconnect"

INBOX_PREFIX = "_INBOX"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_TOKEN = re.compile(r"[^A-Za-z0-9_-]")
_NOT_IN_HEADER = re.compile(r"[^!-$&-~]")
"""Headers carry ASCII; a blank at either end of a value is lost on the way."""
_DIGEST = 12


def is_name(text: str) -> bool:
    """Whether `text` may stand in a subject as a backend or worker id (1-64 of A-Z a-z 0-9 _ -)."""
    return _NAME.fullmatch(text) is not None


def token(text: str) -> str:
    """`text` as one subject token; no two texts have the same one.

    Letters, digits, _ and - stay as they are. Every other character becomes %XX for each of its UTF-8 bytes.
    """
    return _NOT_IN_TOKEN.sub(_percent, text) or "%"


def text_of(written: str) -> str:
    """The text that a token, or a header made by `header_value`, stands for."""
    return "" if written == "%" else unquote(written, errors="replace")


def header_value(text: str) -> str:
    """`text` as the value of a header: visible ASCII stays, but for %; all else becomes %XX."""
    return _NOT_IN_HEADER.sub(_percent, text)


def name_from(text: str) -> str:
    """A name (see `is_name`) for `text`: the text itself where it is one, else its readable part and a digest."""
    if is_name(text):
        return text
    digest = sha256(text.encode(errors="surrogatepass")).hexdigest()[:_DIGEST]
    return f"{_underlined(text)[: 63 - _DIGEST]}-{digest}"


def _underlined(text: str) -> str:
    return _NOT_IN_TOKEN.sub("_", text)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode(errors="surrogatepass"))


def kind_of(subject: str) -> Kind:
    """The kind of request of a subject."""
    return "embed" if subject.startswith("embed.") else "infer"


def asked_backend(kind: Kind, backend: str) -> str:
    return f"{kind}.{_checked(backend)}"


def asked_worker(kind: Kind, backend: str, worker_id: str) -> str:
    return f"{kind}.{_checked(backend)}.w.{_checked(worker_id)}"


def infer_backend(backend: str) -> str:
    return asked_backend("infer", backend)


def infer_worker(backend: str, worker_id: str) -> str:
    return asked_worker("infer", backend, worker_id)


def worker_heartbeat(backend: str, worker_id: str) -> str:
    return f"worker.heartbeat.{_checked(backend)}.{_checked(worker_id)}"


def worker_of_heartbeat(subject: str) -> tuple[str, str] | None:
    """The backend and the worker id in a heartbeat's subject; None on the open subject, where any worker speaks."""
    backend, _, worker_id = subject.removeprefix(f"{WORKER_HEARTBEAT}.").partition(".")
    return (backend, worker_id) if subject != WORKER_HEARTBEAT and is_name(backend) and is_name(worker_id) else None


def worker_control(worker_id: str) -> str:
    return f"worker.control.{_checked(worker_id)}"


def manager_control(manager_id: str) -> str:
    return f"manager.control.{_checked(manager_id)}"


def result(task_id: str) -> str:
    return f"result.{token(task_id)}"


def result_before(task_id: str) -> str:
    """The subject that version 0.1 used: names that differ only in characters that no subject can have shared one."""
    return f"result.{_underlined(task_id) or '_'}"


def metrics_model(model_id: str) -> str:
    return f"metrics.model.{token(model_id)}"


def metrics_worker(worker_id: str) -> str:
    return f"metrics.worker.{token(worker_id)}"


def grades_key(model_id: str) -> str:
    """The key of a model's grades: models' names have characters that keys may not have."""
    return sha256(model_id.encode()).hexdigest()[:32]


def worker_connection_name(backend: str, worker_id: str) -> str:
    """The name of a worker's serving connection, so that the server's events say which worker left."""
    return f"worker:{_checked(backend)}:{_checked(worker_id)}"


def worker_of_connection(name: str) -> str | None:
    """The worker id in a connection's name, or None when it is not a worker's connection."""
    kind, _, rest = name.partition(":")
    backend, _, worker_id = rest.partition(":")
    return worker_id if kind == "worker" and is_name(backend) and is_name(worker_id) else None


def may_receive_reply(subject: str) -> bool:
    """Replies go to inboxes only: a hostile reply subject must not make us publish elsewhere."""
    return subject.startswith(f"{INBOX_PREFIX}.") or subject.startswith(f"{INBOX_PREFIX}_")


def _checked(name: str) -> str:
    if not is_name(name):
        raise ValueError(f"{name!r} is not a name: 1 to 64 of A-Z a-z 0-9 _ - are allowed")
    return name
