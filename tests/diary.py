"""A backend that writes down what it computes, and dies of some questions."""

from pathlib import Path

from tests.roles import Roles

BACKEND = '''
import asyncio, os
from pathlib import Path
from contracts import ModelCard
from workers.base import Availability, Backend, Delta, Done

class Diary(Backend):
    """Writes down what it computes; some questions are too much for it."""

    name = "diary"

    @classmethod
    async def available(cls, config):
        return Availability.yes("always")

    async def start(self, report):
        pass

    def models(self):
        return (ModelCard(model_id="diary", context_window=8192, local=True),)

    async def stream(self, job):
        with Path(os.environ["DIARY"]).open("a") as diary:
            diary.write(job.request.question + "\\n")
        await asyncio.sleep(0.2)
        if "die" in job.request.question:
            os.abort()
        yield Delta("noted")
        yield Done("stop", prompt_tokens=1, completion_tokens=1)

    async def health(self):
        pass
'''


class Diary:
    """The file that the workers of one test share."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "diary"
        self._folder.mkdir()
        (self._folder / "backend.py").write_text(BACKEND)
        (self._folder / "config.yaml").write_text("max_concurrency: 100\n")
        self._file = directory / "diary.txt"
        self._file.touch()

    @property
    def written(self) -> list[str]:
        """The questions that were computed."""
        return self._file.read_text().splitlines()

    def kept_by(self, roles: Roles, *names: str) -> None:
        """Starts workers that write it."""
        for name in names:
            roles.worker(name, str(self._folder), DIARY=str(self._file))
