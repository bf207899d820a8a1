"""`docs/wire.md` is the contract: whatever can be sent stands there."""

import inspect
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import contracts
from contracts import Capability, ControlRequest, ErrorCode, Fault, Outcome, headers, subjects
from contracts.errors import STATUS
from contracts.schemas import READ, WRITTEN

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
MESSAGES: tuple[type[BaseModel], ...] = (*READ, *WRITTEN, contracts.GradeRecord, contracts.ModelGrades)
SECTIONS = PAGE.split("\n## ")
ADDRESSED = {
    subjects.infer_backend: "infer.<backend>",
    subjects.infer_worker: "infer.<backend>.w.<worker_id>",
    subjects.asked_backend: "embed.<backend>",
    subjects.asked_worker: "embed.<backend>.w.<worker_id>",
    subjects.worker_heartbeat: "worker.heartbeat.<backend>.<worker_id>",
    subjects.worker_control: "worker.control.<worker_id>",
    subjects.manager_control: "manager.control.<manager_id>",
    subjects.result: "result.<task_id>",
    subjects.metrics_model: "metrics.model.<model_id>",
    subjects.metrics_worker: "metrics.worker.<worker_id>",
    subjects.worker_connection_name: "worker:<backend>:<worker_id>",
}
"""The subjects that are made of names, as the page writes them."""
NO_SUBJECTS = {subjects.is_name, subjects.token, subjects.grades_key, subjects.worker_of_connection}
NO_SUBJECTS |= {subjects.may_receive_reply, subjects.worker_of_heartbeat, subjects.result_before}
NO_SUBJECTS |= {subjects.kind_of, subjects.text_of, subjects.header_value, subjects.name_from}


def constants(module: Any) -> list[str]:
    return sorted(value for name, value in vars(module).items() if name.isupper() and isinstance(value, str))


def sections_of(message: str) -> str:
    """The text of the page's sections that name the message; empty when none does."""
    return "".join(section for section in SECTIONS if f"`{message}`" in section or section.startswith(f"{message}\n"))


def words_about(message: type[BaseModel]) -> set[str]:
    """The words in backticks in the sections about the message, or about one whose fields it takes over."""
    text = "".join(sections_of(cls.__name__) for cls in message.__mro__).replace("```", "")
    return {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"\w+", code)}


def messages() -> list[tuple[type[BaseModel], type[BaseModel]]]:
    """Every model that a public message is made of, itself included, after the one in whose sections it stands."""
    found: list[tuple[type[BaseModel], type[BaseModel]]] = []
    for message in MESSAGES:
        waiting = [(message, message)]
        for outer, model in waiting:
            here = model if sections_of(model.__name__) else outer
            inner = [each for field in model.model_fields.values() for each in models_in(field.annotation)]
            waiting += [(here, each) for each in inner if (here, each) not in waiting]
            found += [(here, model)] if (here, model) not in found else []
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in models_in(part)]


@pytest.mark.parametrize(("message", "model"), messages())
def test_every_field_of_a_public_message_stands_in_its_section(
    message: type[BaseModel], model: type[BaseModel]
) -> None:
    fields = {field.alias or name for name, field in model.model_fields.items()}
    assert fields - words_about(message) == set()


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_stands_on_the_page_with_its_status(code: ErrorCode) -> None:
    assert f"| `{code}` | {STATUS[code]} |" in PAGE


@pytest.mark.parametrize("subject", [*constants(subjects), *ADDRESSED.values()])
def test_every_subject_stream_and_bucket_stands_on_the_page(subject: str) -> None:
    assert f"`{subject}`" in PAGE


def test_every_subject_made_of_names_is_known_to_this_test() -> None:
    made = {f for f in vars(subjects).values() if inspect.isfunction(f) and f.__module__ == subjects.__name__}
    assert {f.__name__ for f in made - NO_SUBJECTS - set(ADDRESSED)} == {"_checked", "_percent", "_underlined"}


@pytest.mark.parametrize("header", constants(headers))
def test_every_header_stands_on_the_page(header: str) -> None:
    assert header in PAGE


@pytest.mark.parametrize(
    "word",
    [
        *Outcome,
        *get_args(Capability),
        *get_args(Fault),
        *get_args(contracts.Grade),
        *get_args(contracts.Phase),
        *get_args(contracts.Policy),
        *get_args(contracts.WorkerState),
        *get_args(ControlRequest.model_fields["op"].annotation),
    ],
)
def test_every_word_that_a_field_may_have_stands_on_the_page(word: str) -> None:
    assert f"`{word}`" in PAGE
