"""Every subject of the mesh, spelled once. What each is for stands in docs/wire.md."""

import re
from hashlib import sha256

INFER_AUTO = "infer.auto"
INFER_CANCEL = "infer.cancel"
INFER_FEEDBACK = "infer.feedback"
INFER_STATUS = "infer.status"
"""Which Manager has this task? Only that one answers, so silence means that none has it."""
INFER_QUEUE = "q"
"""The queue group of all roles that share `infer.*` work; `nats reply` needs `-q q` to join it."""

JOBS_SUBMIT = "jobs.submit"
JOBS_STREAM = "JOBS"
RESULTS_STREAM = "RESULTS"
RESULT_ANY = "result.>"
JOBS_CONSUMER = "managers"
"""The durable consumer of stream `JOBS` that all Managers share."""

WORKER_HEARTBEAT = "worker.heartbeat"

TELEMETRY_STREAM = "TELEMETRY"
TELEMETRY_ANY = "telemetry.>"
TELEMETRY_RESPONSE = "telemetry.response"
TELEMETRY_ATTEMPT = "telemetry.attempt"
TELEMETRY_WORKER = "telemetry.worker"
TELEMETRY_FEEDBACK = "telemetry.feedback"
TELEMETRY_CHECK = "telemetry.check"
"""Whether the stream takes what is written. Nothing is booked for it."""

METRICS_MESH = "metrics.mesh"
METRICS_MODELS = "metrics.model.*"
METRICS_ROUTE = "metrics.route"
METRICS_GRADE = "metrics.grade"
GRADES_BUCKET = "bullpen_grades"
"""JetStream keys and values: `grades_key(model)` → `ModelGrades`."""
METRICS_BUDGET = "metrics.budget"

SYS_CONNECT = "mesh.sys.connect"
SYS_DISCONNECT = "mesh.sys.disconnect"

INBOX_PREFIX = "_INBOX"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_TOKEN = re.compile(r"[^A-Za-z0-9_-]")


def is_name(text: str) -> bool:
    """Whether `text` may stand in a subject as a backend or worker id (1-64 of A-Z a-z 0-9 _ -)."""
    return _NAME.fullmatch(text) is not None


def token(text: str) -> str:
    """`text` as one subject token: every character that is not a letter, digit, _ or - becomes _."""
    return _NOT_IN_TOKEN.sub("_", text) or "_"


def infer_backend(backend: str) -> str:
    return f"infer.{_checked(backend)}"


def infer_worker(backend: str, worker_id: str) -> str:
    return f"infer.{_checked(backend)}.w.{_checked(worker_id)}"


def worker_control(worker_id: str) -> str:
    return f"worker.control.{_checked(worker_id)}"


def manager_control(manager_id: str) -> str:
    return f"manager.control.{_checked(manager_id)}"


def result(task_id: str) -> str:
    return f"result.{token(task_id)}"


def metrics_model(model_id: str) -> str:
    return f"metrics.model.{token(model_id)}"


def metrics_worker(worker_id: str) -> str:
    return f"metrics.worker.{token(worker_id)}"


def grades_key(model_id: str) -> str:
    """Where a model's grades are kept: names have characters that keys may not have."""
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
