"""`bullpen logs`: whose lines are shown, and how many."""

from pathlib import Path

import pytest

from bullpen.cli.logs import _Tail
from tests.cli import Result, invoke


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    for name in ("manager-1", "worker-local-1", "worker-local-2"):
        lines = "".join(f"{name} {number}\n" for number in range(30))
        (tmp_path / "logs" / f"{name}.log").write_text(lines + "not yet whole")
    return tmp_path


def logs(place: Path, *arguments: str) -> Result:
    return invoke("logs", *arguments, env={"BULLPEN_DATA_DIR": str(place)})


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["local-1", "-n", "2"], "worker-local-1 28\nworker-local-1 29\n"),
        (["manager-1", "-n", "1"], "manager-1 29\n"),
        (["local", "-n", "1"], "worker-local-1 | worker-local-1 29\nworker-local-2 | worker-local-2 29\n"),
        (["manager-1", "-n", "0"], ""),
    ],
)
def test_the_newest_lines_of_whoever_is_meant(place: Path, arguments: list[str], out: str) -> None:
    told = logs(place, *arguments)
    assert (told.code, told.out) == (0, out)


def test_every_process_without_a_name(place: Path) -> None:
    assert len(logs(place).out.splitlines()) == 60


def test_a_name_that_is_nobodys(place: Path, tmp_path: Path) -> None:
    told = logs(place, "lcoal-1")
    assert told.code == 2
    assert "did you mean local-1?" in told.err
    assert "there are no logs" in logs(tmp_path / "elsewhere").err


def test_following_goes_on_in_the_file_that_replaced_it(tmp_path: Path) -> None:
    file = tmp_path / "one.log"
    file.write_text("a\nb\n")
    tail = _Tail("one", file)
    assert list(tail.last(1)) == ["b"]
    with file.open("a") as output:
        output.write("c\nd")
    assert list(tail.news()) == ["c"]
    file.write_text("n\n")
    assert list(tail.news()) == ["n"]
