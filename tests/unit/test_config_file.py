"""A config file is followed however it is changed: by editors, mounts and Kubernetes."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import field_validator

from config import watched_file
from config.loader import ConfigModel
from config.watched_file import ConfigFile, config_digest, differing
from tests.support import eventually


class Outer(ConfigModel):
    class Inner(ConfigModel):
        fixed: float = 1.0

    seed: int = 1
    inner: Inner = Inner()
    names: tuple[Inner, ...] = ()


def write_in_place(path: Path) -> None:
    path.write_text("seed: 2\n")


def write_in_place_with_the_old_time(path: Path) -> None:
    before = path.stat()
    path.write_text("seed: 2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def put_another_in_its_place(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_text("seed: 2\n")
    new.replace(path)


def take_it_away_and_bring_another(path: Path) -> None:
    path.unlink()
    path.write_text("seed: 2\n")


def turn_the_link_of_its_folder(path: Path) -> None:
    """As Kubernetes does: config.yaml -> ..data/config.yaml, and ..data -> another folder."""
    folder = path.parent / "..second"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 2\n")
    (path.parent / "..tmp").symlink_to("..second")
    (path.parent / "..tmp").replace(path.parent / "..data")


def empty(path: Path) -> None:
    path.write_text("")


def write_the_same(path: Path) -> None:
    path.write_text("seed: 1\n")


@pytest.fixture(autouse=True)
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """Each time that a file is looked at; often."""
    looks: list[Path | None] = []
    look = watched_file._content

    def counted(path: Path | None) -> bytes | None:
        looks.append(path)
        return look(path)

    monkeypatch.setattr(watched_file, "_content", counted)
    monkeypatch.setattr(watched_file, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(watched_file, "LOOK_AGAIN", 0.01)
    return looks


async def some_more(looks: list[Path | None]) -> None:
    """Waits until a change would have been noticed."""
    enough = len(looks) + 4
    await eventually(lambda: len(looks) >= enough)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "..first").mkdir()
    (tmp_path / "..first" / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "..data").symlink_to("..first")
    (tmp_path / "config.yaml").symlink_to("..data/config.yaml")
    return tmp_path / "config.yaml"


@pytest.mark.parametrize(
    "change",
    [
        write_in_place,
        write_in_place_with_the_old_time,
        put_another_in_its_place,
        take_it_away_and_bring_another,
        turn_the_link_of_its_folder,
    ],
)
async def test_a_change_is_noticed_however_it_is_made(path: Path, change: Callable[[Path], None]) -> None:
    file = ConfigFile(Outer, "outer", path)
    assert file.load().seed == 1
    change(path)
    await file.changed()
    assert file.load().seed == 2


async def test_a_file_that_says_the_same_or_nothing_is_no_change(path: Path, looks: list[Path | None]) -> None:
    file = ConfigFile(Outer, "outer", path)
    noticed = asyncio.create_task(file.changed())
    for change in (Path.unlink, empty, write_the_same):
        change(path)
        await some_more(looks)
        assert not noticed.done()
    file.touch()
    await noticed


async def test_a_file_is_read_when_its_writer_is_done(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look finds another line, until the last one is written."""
    file = ConfigFile(Outer, "outer", path)
    lines = [*(f"# {number}\n" for number in range(6)), "seed: 2\n"]
    empty(path)
    look = watched_file._content

    def write_a_line_and_look(path: Path) -> bytes | None:
        if lines:
            with path.open("a") as writing:
                writing.write(lines.pop(0))
        return look(path)

    monkeypatch.setattr(watched_file, "_content", write_a_line_and_look)
    await file.changed()
    assert lines == []
    assert file.load().seed == 2


async def test_without_a_file_only_a_touch_is_a_change(looks: list[Path | None]) -> None:
    file = ConfigFile(Outer, "outer", None)
    noticed = asyncio.create_task(file.changed())
    await some_more(looks)
    assert not noticed.done()
    file.touch()
    await noticed


def test_a_field_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("seed: 1\nnames:\n  - fixed: 1\n  - fixed: 2\n")
    file = ConfigFile(Outer, "outer", path)
    assert file.place("names.1.fixed") == f"{path}:4: names.1.fixed"
    assert file.place("names.1.missing") == f"{path}:4: names.1.missing"
    assert file.place("inner") == f"{path}:1: inner"
    monkeypatch.setenv("BULLPEN_OUTER__NAMES", "[]")
    assert file.place("names") == "BULLPEN_OUTER__NAMES: names"


def test_what_differs_is_named() -> None:
    before, after = Outer(), Outer(seed=2, inner=Outer.Inner(fixed=3), names=(Outer.Inner(),))
    assert differing(before, after) == ["inner.fixed", "names", "seed"]
    assert differing(before, Outer()) == []
    assert config_digest(before) == config_digest(Outer()) != config_digest(after)


async def test_others_go_on_while_it_is_read(tmp_path: Path) -> None:
    read, others_went_on = threading.Event(), threading.Event()

    class Large(ConfigModel):
        seed: int

        @field_validator("seed")
        @classmethod
        def _waits(cls, seed: int) -> int:
            read.set()
            assert others_went_on.wait(60)
            return seed

    path = tmp_path / "config.yaml"
    path.write_text("seed: 2\n")
    reading = asyncio.create_task(ConfigFile(Large, "large", path).read())
    await eventually(read.is_set)
    others_went_on.set()
    assert (await reading).seed == 2
