"""A backend's report card, `checklist.yaml` in its folder: what it can do, what is to be done, what it never will."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from config.loader import ConfigModel, load_config

VERDICT = re.compile(r"done|(todo|exempt): \S.*")


def _known(verdict: str) -> str:
    if not VERDICT.fullmatch(verdict):
        raise PydanticCustomError("verdict", "should be `done`, `todo: why` or `exempt: why`")
    return verdict


Verdict = Annotated[str, AfterValidator(_known)]


class Checklist(ConfigModel):
    chat: Verdict
    stream: Verdict
    """Piece by piece, as the model makes it."""
    cancel: Verdict
    """Leaving it ends the provider's work at once."""
    usage: Verdict
    """Tokens as the provider counts them."""
    logprobs: Verdict
    """Where confidence comes from."""
    continue_: Annotated[Verdict, Field(alias="continue")]
    """Goes on after the start of an answer that another worker began."""
    tools: Verdict
    json_: Annotated[Verdict, Field(alias="json")]
    vision: Verdict
    embed: Verdict = "exempt: it says nothing of vectors"
    """Vectors of texts."""
    limits: Verdict
    """Says `rate_limited`, and for how long, when its provider does."""
    health: Verdict

    def items(self) -> dict[str, str]:
        """What is said of each, in this order."""
        return dict(self.model_dump(by_alias=True))


def load_checklist(folder: Path) -> Checklist:
    """Raises `ConfigError` naming the file, the line and the item."""
    return load_config(Checklist, "checklist", folder / "checklist.yaml", {})
