"""Which files are made, and what is in them."""

from bullpen.reference import http, pictures
from bullpen.reference.commands import commands
from bullpen.reference.markdown import made_page
from bullpen.reference.nats import subject_table
from bullpen.reference.settings import settings
from contracts.asyncapi import FILE as ASYNCAPI
from contracts.asyncapi import document
from contracts.schemas import as_text

HOW = "python -m bullpen.reference docs/reference"


def pages() -> dict[str, str]:
    """Every file of docs/reference that is made from the code, by its name."""
    return {
        ASYNCAPI: as_text(document()),
        http.FILE: http.as_json(),
        "mesh.svg": pictures.mesh(),
        "request.svg": pictures.request(),
        "subjects.md": made_page(
            "Every NATS subject",
            HOW,
            f"For programs: [{ASYNCAPI}]({ASYNCAPI}), an AsyncAPI 3.0 document with each message. "
            "What the messages mean, their headers and their order: [the wire](../wire.md).",
            subject_table(),
        ),
        "http.md": made_page(
            "Everything over HTTP",
            HOW,
            f"For programs: [{http.FILE}]({http.FILE}), an OpenAPI 3.1 document; a running gateway serves it at "
            "`/openapi.json`. What it does with each: [the gateway](../gateway.md), [the live page](../page.md).",
            http.routes(),
        ),
        "settings.md": made_page(
            "Every setting",
            HOW,
            "Times are in seconds unless the name says `_ms`. A group is written as JSON in the environment: "
            "`BULLPEN_MANAGER__HEDGING='{\"share\": 0.1}'`. A file that is saved counts at once. Where the files are, "
            "and the variables of the environment that are no setting: [operating](../operations.md#settings).",
            settings(),
        ),
        "commands.md": made_page(
            "Every command",
            HOW,
            "`bullpen COMMAND --help` says the same. Commands find the mesh by `NATS_URL`, else the one that runs on "
            "`.bullpen/` (or `BULLPEN_DATA_DIR`), else at `nats://127.0.0.1:4222`.",
            commands(),
        ),
    }
