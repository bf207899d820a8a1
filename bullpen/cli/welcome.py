"""What `bullpen up` prints when the mesh is ready: addresses, workers, other backends, and commands to try."""

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from bullpen.start_plan import StartPlan
from bullpen.supervision.endpoints import DEFAULT_DATA_DIR, Endpoints
from bus.server_address import split

IMAGE = "BULLPEN_IMAGE"
"""Set by the image of the whole mesh."""
QUESTION = "What is the capital of France?"


def lines(endpoints: Endpoints, plan: StartPlan, data_dir: Path, *, lacks_key: bool = False) -> Iterator[str]:
    """`lacks_key`: the gateway refuses all callers until there is an API key."""
    yield ""
    yield from addresses(endpoints, data_dir)
    yield ""
    yield from _workers(plan)
    yield ""
    if lacks_key:
        yield "HTTP answers nobody until there is an API key. Make one, which is shown once:"
        yield f"  {command(endpoints, data_dir)} keys create --tenant me"
        yield ""
    if in_container():
        yield from _in_container(endpoints, data_dir)
        return
    yield "In another terminal:"
    yield f"  nats req infer.auto '{QUESTION}' -s {_server(endpoints)} --timeout 60s"
    yield f'  {command(endpoints, data_dir)} ask "{QUESTION}"'
    if endpoints.http_url is not None:
        body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": QUESTION}]})
        yield f"  curl {endpoints.http_url}/v1/chat/completions -d '{body}'"


def in_container() -> bool:
    """Whether this is the image of the whole mesh, with the container's addresses."""
    return bool(os.environ.get(IMAGE))


def _in_container(endpoints: Endpoints, data_dir: Path) -> Iterator[str]:
    yield "In another terminal, with the port that you published:"
    yield f'  {command(endpoints, data_dir)} ask "{QUESTION}"'
    if endpoints.http_url is not None:
        body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": QUESTION}]})
        yield f"  curl http://127.0.0.1:4000/v1/chat/completions -H \"Authorization: Bearer $KEY\" -d '{body}'"


def addresses(endpoints: Endpoints, data_dir: Path) -> Iterator[str]:
    """The addresses. No password is shown: screens are shared, and end up in bug reports."""
    yield f"  NATS      {_servers(endpoints.nats_url)}"
    if endpoints.http_url is not None:
        yield f"  HTTP      {endpoints.http_url}  (the base URL of most clients: {endpoints.http_url}/v1)"
    yield f"  Postgres  {_books(endpoints, data_dir)}"
    yield f"  Logs      {data_dir / 'logs'}"


def command(endpoints: Endpoints, data_dir: Path) -> str:
    """The command that runs `bullpen` so that it finds this mesh."""
    if in_container():
        return f"docker exec {socket.gethostname()} bullpen"  # which Docker calls by the first digits of its id
    default = Path(DEFAULT_DATA_DIR).resolve()
    prefix = "" if data_dir == default or os.environ.get("NATS_URL") else f"BULLPEN_DATA_DIR={data_dir} "
    return prefix + _program()


def _program() -> str:
    ours = Path(sys.executable).with_name("bullpen")
    if not ours.exists():
        return f"{sys.executable} -m bullpen"
    if shutil.which("bullpen") == str(ours):
        return "bullpen"
    near = os.path.relpath(ours)
    return str(ours) if near.startswith("..") else near


def _books(endpoints: Endpoints, data_dir: Path) -> str:
    if endpoints.database_url is None:
        return "off: nothing is kept in books"
    return f"{_without_password(endpoints.database_url)}  (password in {data_dir / 'endpoints.json'})"


def _server(endpoints: Endpoints) -> str:
    """The address for the `nats` tool: through a variable where it holds a password."""
    shown = _servers(endpoints.nats_url)
    return shown if shown == endpoints.nats_url else '"$NATS_URL"'


def _servers(urls: str) -> str:
    """The NATS servers without credentials: a name that stands alone is a token."""
    return ",".join(re.sub(r"[^/@]*@", "", url) for url in split(urls))


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    credentials, at, address = rest.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}{at}{address.partition('?')[0]}"


def _workers(plan: StartPlan) -> Iterator[str]:
    rows = [("on", group.folder.name, f"×{group.count}", group.reason) for group in plan.groups]
    rows += [("on", one.worker_id, "", one.reason) for one in plan.added]
    rows += [("off", one.name, "", f"{one.reason}; {one.cure}" if one.cure else one.reason) for one in plan.not_started]
    if not plan.groups and not plan.added:
        yield "No worker runs: every question is answered `no_worker` until one does."
    width = max((len(name) for _, name, _, _ in rows), default=0)
    for state, name, count, reason in rows:
        yield f"  {state:<3}  {name:<{width}} {count:<3}  {reason}".rstrip()
