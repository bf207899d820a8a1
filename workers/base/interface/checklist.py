"""A backend's report card, `checklist.yaml` in its folder: what it can do, what is planned, and what it never will
do.
"""

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
    """Sends the answer piece by piece, as the model makes it."""
    cancel: Verdict
    """Ends the provider's work at once when the stream is closed."""
    usage: Verdict
    """Reports tokens as the provider counts them."""
    logprobs: Verdict
    """Reports token probabilities, from which confidence comes."""
    continue_: Annotated[Verdict, Field(alias="continue")]
    """Continues after the start of an answer that another worker began."""
    tools: Verdict
    json_: Annotated[Verdict, Field(alias="json")]
    vision: Verdict
    embed: Verdict = "exempt: it says nothing of vectors"
    """Turns texts into vectors."""
    limits: Verdict
    """Raises `rate_limited`, with the time to wait, when its provider does."""
    health: Verdict

    def items(self) -> dict[str, str]:
        """The verdict on each item, in this order."""
        return dict(self.model_dump(by_alias=True))


def load_checklist(folder: Path) -> Checklist:
    """Reads the report card. Raises `ConfigError` naming the file, the line and the item."""
    return load_config(Checklist, "checklist", folder / "checklist.yaml", {})
