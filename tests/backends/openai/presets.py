"""The configs that we ship for other servers of OpenAI's API."""

from pathlib import Path

from workers.base.interface.discovery import find
from workers.openai import backend as openai_backend
from workers.openai.backend import OpenAIConfig

PRESETS = sorted((Path(openai_backend.__file__).parent / "presets").glob("*.yaml"))


def preset(name: str) -> OpenAIConfig:
    [path] = [path for path in PRESETS if path.stem == name]
    config = find("openai").config_file(path).load()
    assert isinstance(config, OpenAIConfig)
    return config
