"""`bullpen init --rotate postgres`: database, .env and containers have one new password, or all keep the old one."""

import json
from pathlib import Path

import pytest

from tests.cli import Result, invoke

DOCKER = """#!/usr/bin/env python3
import json, os, sys
told = [*sys.argv[1:], sys.stdin.read(), open(".env").read()]
open(os.environ["TOLD"], "a").write(json.dumps(told) + "\\n")
sys.exit("no such container" if os.environ["FAILS"] and os.environ["FAILS"] in sys.argv else 0)
"""


def rotate(place: Path, fails: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Result, list[list[str]]]:
    """What is said, and what Docker is told: its arguments, what it reads, and the .env of that moment."""
    (place / "bin").mkdir()
    program = place / "bin" / "docker"
    program.write_text(DOCKER)
    program.chmod(0o755)
    (place / ".env").write_text("A=1\nPOSTGRES_PASSWORD=old\nB=2\n")
    (place / ".env").chmod(0o600)
    monkeypatch.chdir(place)
    env = {"PATH": f"{place / 'bin'}:/usr/bin:/bin", "TOLD": str(place / "told"), "FAILS": fails}
    said = invoke("init", "--rotate", "postgres", env=env)
    return said, [json.loads(line) for line in (place / "told").read_text().splitlines()]


def test_the_database_is_told_first_and_the_password_is_on_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, told = rotate(tmp_path, "", monkeypatch)
    assert said.code == 0, said.err
    text = (tmp_path / ".env").read_text()
    new = text.splitlines()[1].removeprefix("POSTGRES_PASSWORD=")
    assert text == f"A=1\nPOSTGRES_PASSWORD={new}\nB=2\n"
    assert len(new) > 40
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    alter, up = told[1:]
    assert alter[-2] == f"ALTER ROLE bullpen PASSWORD '{new}';\n"
    assert "POSTGRES_PASSWORD=old" in alter[-1], ".env waits for the database"
    assert up[1:3] == ["up", "-d"]
    assert {"postgres", "telemetry"} <= set(up)
    assert not [word for command in told for word in command[:-2] if new in word]
    assert new not in said.out + said.err


def test_a_database_that_does_not_take_it_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, told = rotate(tmp_path, "exec", monkeypatch)
    assert said.code == 1
    assert "nothing was changed" in said.err
    assert "ALTER ROLE bullpen" in said.err
    assert "POSTGRES_PASSWORD=old" in (tmp_path / ".env").read_text()
    assert [command[1] for command in told] == ["version", "exec"]


def test_containers_that_do_not_start_anew_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, _ = rotate(tmp_path, "up", monkeypatch)
    assert said.code == 1
    assert "docker compose up -d postgres telemetry" in said.err
    assert "POSTGRES_PASSWORD=old" not in (tmp_path / ".env").read_text(), "the database has the new one"


def test_without_a_dotenv_file_there_is_nothing_to_rotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = invoke("init", "--rotate", "postgres")
    assert (said.code, "run this where the containers' .env is" in said.err) == (2, True)
    assert invoke("init", "--rotate", "nats").code == 2
