"""The operator's options: where they stand in a question, and such as cannot be."""

from typing import Any

import pytest
from pydantic import ValidationError

from tests.backends.ollama.stand_in import Scripted, Start, job
from tests.backends.providers import Json
from workers.base import ModelConfig
from workers.ollama.backend import OllamaConfig


@pytest.mark.parametrize(
    ("told", "sent"),
    [
        (-1, -1),
        ("-1", -1),
        (0, 0),
        ("0", 0),
        (300, 300),
        (1.5, 1.5),
        ("300", 300),
        ("10m", "10m"),
        (" 1H30m ", "1h30m"),
        ("-1m", "-1m"),
        ("24h", "24h"),
        (None, None),
    ],
)
async def test_how_long_a_model_stays_loaded(provider: Scripted, start: Start, told: Any, sent: Any) -> None:
    backend = await start(keep_alive=told)
    await backend.infer(job(backend))
    assert provider.received[-1].get("keep_alive") == sent


@pytest.mark.parametrize("told", ["for ever", "10 minutes", "nan", "inf", True, [], {"m": 1}, "m", "1d"])
def test_an_invalid_keep_alive_is_a_clear_error(told: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        OllamaConfig(keep_alive=told)
    (error,) = caught.value.errors()
    assert error["loc"][0] == "keep_alive"
    assert "-1: for ever" in error["msg"]
    assert "\\" not in error["msg"]


@pytest.mark.parametrize(
    ("options", "beside", "among"),
    [
        ({"think": False, "top_k": 40}, {"think": False}, {"top_k": 40}),
        ({"think": True}, {"think": True}, {}),
        ({"think": "high"}, {"think": "high"}, {}),
        ({"think": "False"}, {"think": False}, {}),
        ({"think": None}, {}, {}),
        ({"keep_alive": "-1", "num_ctx": 2048}, {"keep_alive": -1}, {"num_ctx": 2048}),
        ({"logprobs": False}, {"logprobs": False}, {}),
    ],
)
async def test_what_stands_beside_the_options_and_what_among_them(
    provider: Scripted, start: Start, options: Json, beside: Json, among: Json
) -> None:
    backend = await start(models=[{"name": "m", "options": options}])
    await backend.infer(job(backend, max_tokens=50))
    body = provider.received[-1]
    assert {name: body.get(name) for name in ("think", "keep_alive") if name in body} == {
        name: value for name, value in beside.items() if name != "logprobs"
    }
    assert body["logprobs"] is beside.get("logprobs", True)
    assert body["options"] == {"temperature": 0.0, "num_predict": 50, **among}


@pytest.mark.parametrize("options", [{"think": "a lot"}, {"think": 1}, {"keep_alive": "soon"}, {"think": ["low"]}])
def test_an_option_that_cannot_be_is_named(options: Json) -> None:
    with pytest.raises(ValidationError, match=f"options.{next(iter(options))} should be"):
        OllamaConfig(models=(ModelConfig(name="m", options=options),))
