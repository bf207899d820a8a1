"""`docs/reference/asyncapi.json` is what the code says: every subject, every message."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from contracts.asyncapi import FILE, document, subjects
from contracts.schemas import as_text
from tests.clients.installed import CLIENTS, needs

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = document()
CHANNELS = [channel for channel in DOCUMENT["channels"].values() if channel["address"]]
MESSAGES = DOCUMENT["components"]["messages"]
GOLDEN = [
    file for file in sorted(Path(__file__).with_name("golden").glob("*.json")) if file.name.split(".")[0] in MESSAGES
]
"""Not those of buckets, which have no subject of ours."""
OFFICIAL = CLIENTS / "asyncapi" / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"
"""The schema of such documents, by those who made them."""


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        part = list(part.values())
    for child in part if isinstance(part, list) else ():
        yield from references(child)


def resolved(reference: str) -> Any:
    found: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def test_the_document_is_that_of_the_code() -> None:
    published = (ROOT / "docs" / "reference" / FILE).read_text(encoding="utf-8")
    assert published == as_text(DOCUMENT), "run `python -m contracts.asyncapi docs/reference`"


def test_it_has_the_subjects_of_the_wire_page() -> None:
    table = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8").split("## Subjects\n")[1].strip().split("\n\n")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    told = {subject for cell in cells for subject in re.findall(r"`([^`]+)`", cell)}
    assert {re.sub(r"{(\w+)}", r"<\1>", channel["address"]) for channel in CHANNELS} == told


def test_no_subject_stands_there_twice() -> None:
    """Two of one address would be one channel, and two rows of the page."""
    assert len({subject.address for subject in subjects()}) == len(subjects())


def test_every_reference_leads_somewhere() -> None:
    assert all(isinstance(resolved(reference), dict) for reference in references(DOCUMENT))


def test_every_parameter_of_an_address_is_described() -> None:
    for channel in CHANNELS:
        assert set(re.findall(r"{(\w+)}", channel["address"])) == channel.get("parameters", {}).keys()


def test_whoever_receives_is_sent_something() -> None:
    actions: dict[str, set[str]] = {}
    for operation in DOCUMENT["operations"].values():
        actions.setdefault(operation["channel"]["$ref"], set()).add(operation["action"])
    assert {key for key, both in actions.items() if both != {"send", "receive"}} == set()


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden_messages_fit(file: Path) -> None:
    schema = {**MESSAGES[file.name.split(".")[0]]["payload"], "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(json.loads(file.read_text(encoding="utf-8")))


@needs("asyncapi")
def test_it_is_what_asyncapi_3_says() -> None:
    official = json.loads(OFFICIAL.read_text(encoding="utf-8"))
    assert [error.message for error in Draft7Validator(official).iter_errors(DOCUMENT)] == []
