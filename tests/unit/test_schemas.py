"""The wire is frozen: published schemas match the models, and yesterday's messages read and write as ever."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

import contracts
from contracts import BullpenError, Heartbeat, InferenceRequest, InferenceResponse, StrictModel, parse_request
from contracts.schemas import READ, WRITTEN, as_text, schemas, write

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "docs" / "schemas"
SCHEMAS = schemas()
GOLDEN = sorted(Path(__file__).with_name("golden").glob("*.json"))


def model_of(file: Path) -> type[BaseModel]:
    model: type[BaseModel] = getattr(contracts, file.name.split(".")[0])
    return model


def written(message: BaseModel) -> Any:
    if isinstance(message, StrictModel):
        return json.loads(message.model_dump_json(exclude_unset=True))
    assert isinstance(message, contracts.OpenModel)
    return json.loads(message.to_bytes())


def test_published_schemas_are_those_of_the_models() -> None:
    published = {file.stem: file.read_text(encoding="utf-8") for file in PUBLISHED.glob("*.json")}
    expected = {name: as_text(schema) for name, schema in SCHEMAS.items()}
    assert published == expected, "run `python -m contracts.schemas docs/schemas`"


def test_schemas_of_messages_that_are_no_more_are_removed(tmp_path: Path) -> None:
    (tmp_path / "Gone.json").write_text("{}")
    write(tmp_path)
    assert {file.stem for file in tmp_path.iterdir()} == SCHEMAS.keys()


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schema_is_valid_and_has_a_golden_message(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert name in {file.name.split(".")[0] for file in GOLDEN}


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden_message_reads_and_writes_as_ever(file: Path) -> None:
    golden = json.loads(file.read_text(encoding="utf-8"))
    assert written(model_of(file).model_validate_json(file.read_bytes())) == golden


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden_message_fits_its_schema(file: Path) -> None:
    schema = SCHEMAS[model_of(file).__name__]
    Draft202012Validator(schema).validate(json.loads(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", [f for f in GOLDEN if model_of(f) is InferenceRequest], ids=lambda file: file.stem)
def test_golden_request_passes_the_border(file: Path) -> None:
    assert written(parse_request(file.read_bytes(), task_id="given"))["task_id"] in ("given", "order-66")


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_unknown_fields_are_an_error_from_strangers_and_ignored_between_roles(file: Path) -> None:
    later = json.dumps({**json.loads(file.read_text(encoding="utf-8")), "from_a_later_version": 1})
    model = model_of(file)
    if issubclass(model, StrictModel):
        with pytest.raises(ValueError, match="from_a_later_version"):
            model.model_validate_json(later)
    else:
        assert model.model_validate_json(later) == model.model_validate_json(file.read_bytes())


def test_the_seed_fields_never_change() -> None:
    assert {"task_id", "prompt", "context", "temperature"} <= InferenceRequest.model_fields.keys()
    seed = {"task_id", "model_id", "output", "tokens_used", "duration_ms", "confidence"}
    assert seed <= InferenceResponse.model_fields.keys()
    assert all(InferenceResponse.model_fields[name].is_required() for name in seed)


def test_fields_are_described_in_the_words_of_the_code() -> None:
    heartbeat = SCHEMAS[Heartbeat.__name__]["properties"]
    assert "restarted worker" in heartbeat["epoch"]["description"]
    assert "unknown" in SCHEMAS[InferenceResponse.__name__]["properties"]["cost_usd"]["description"]


def test_no_message_stands_on_both_sides() -> None:
    assert not set(READ) & set(WRITTEN)


def test_the_schema_refuses_what_the_border_refuses() -> None:
    validator = Draft202012Validator(SCHEMAS["InferenceRequest"])
    for body in ({"prompt": 7}, {"prompt": "hi", "temprature": 1}, {"prompt": "hi", "temperature": 3}):
        assert not validator.is_valid(body)
        with pytest.raises(BullpenError):
            parse_request(json.dumps(body).encode())
