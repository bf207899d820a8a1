"""The files of the live page, with headers that let a browser run nothing else."""

from functools import cache
from hashlib import sha256
from pathlib import Path

from aiohttp.web import BaseRequest, Response

FOLDER = Path(__file__).resolve().parents[1] / "page"
PREFIX = "/page/"
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def file_of(request: BaseRequest) -> Response | None:
    """A file of the page; None: there is no such file. At `/` a program that wants no HTML gets a text instead."""
    path = request.path
    if path == "/" and "text/html" in request.headers.get("Accept", ""):
        path = f"{PREFIX}index.html"
    found = _files().get(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else None
    if found is None:
        return None
    body, content_type, tag = found
    headers = {**HEADERS, "ETag": tag, "Vary": "Accept"}
    if request.headers.get("If-None-Match") == tag:
        return Response(status=304, headers=headers)
    return Response(body=body, content_type=content_type, charset="utf-8", headers=headers)


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Body, content type and ETag, by the path below the folder."""
    found = {}
    for file in sorted(FOLDER.rglob("*")):
        if file.is_file() and file.suffix in TYPES:
            body = file.read_bytes()
            name = file.relative_to(FOLDER).as_posix()
            found[name] = body, TYPES[file.suffix], f'"{sha256(body).hexdigest()[:20]}"'
    return found
