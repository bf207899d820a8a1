"""Config files and their overrides: a mistake is told with file, line and field."""

import os
from pathlib import Path

import pytest

from config.loader import ConfigError, ConfigModel, load_config, secret
from manager.config import ManagerConfig


class Inner(ConfigModel):
    fixed: float | None = None


class Outer(ConfigModel):
    seed: int = 1
    latency_ms: Inner = Inner()
    names: tuple[str, ...] = ()


def load(text: str | bytes, tmp_path: Path, **environment: str) -> Outer:
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(Outer, "sim-ple", path, environment)


def test_the_file_is_read_and_the_environment_overrides_it(tmp_path: Path) -> None:
    told = load("seed: 3\nlatency_ms: {fixed: 1}\n", tmp_path, BULLPEN_SIM_PLE__LATENCY_MS='{"fixed": 1000}')
    assert (told.seed, told.latency_ms.fixed) == (3, 1000)
    assert load("", tmp_path, BULLPEN_SIM_PLE__SEED="9").seed == 9
    assert load("", tmp_path, BULLPEN_SIM_PLE__LATENCY_MS__FIXED="5").latency_ms.fixed == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: x", r"config.yaml:1: seed: "),
        ("seed: 1\nlatency_ms:\n  fixed: slow\n", r"config.yaml:3: latency_ms.fixed: "),
        ("seed: 1\nsede: 2\n", r"config.yaml:2: sede: unknown key"),
        ("names:\n  - a\n  - {}\n", r"config.yaml:3: names.1: "),
        ("seed: [1\n", r"config.yaml:2: not valid YAML"),
        ("- 1\n", r"config.yaml:1: should be a mapping"),
        ("seed: !!python/object:os.system x", r"config.yaml:1: not valid YAML"),
        ("seed: 1\nnames: []\nseed: 2\n", r"config.yaml:3: not valid YAML: seed stands twice"),
        ("seed: 1\nlatency_ms: {fixed: 1, fixed: 2}\n", r"config.yaml:2: not valid YAML: fixed stands twice"),
        ("names: &all [a]\nseed: *all\n", r"config.yaml:1: not valid YAML: write this out"),
        ("names: [a]\nseed: 2026-99-01\n", r"config.yaml:2: not valid YAML: month must be"),
        (f"names: [a]\nseed: {'1' * 5000}\n", r"config.yaml:2: not valid YAML: Exceeds the limit"),
        ("names: [a]\nseed: \0\n", r"config.yaml:2: not valid YAML: the character U[+]0000"),
        (f"names: {'[' * 1500}\n", r"config.yaml:1: not valid YAML: is nested deeper than 50 levels"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_field(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(text, tmp_path)


def test_what_is_no_text_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config.yaml:2: is not UTF-8 text"):
        load(b"seed: 1\nnames: [\xff]\n", tmp_path)


def test_a_few_lines_cannot_stand_for_billions(tmp_path: Path) -> None:
    """It is read where questions are answered: as long as it takes, nobody gets an answer."""
    below = ("x", *(f"*{name}" for name in "bcdefgh"))
    lines = [f"{name}: &{name} [{','.join([part] * 9)}]\n" for name, part in zip("bcdefghi", below, strict=True)]
    with pytest.raises(ConfigError, match=r"config.yaml:1: not valid YAML: write this out"):
        load("".join(lines), tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("BULLPEN_SIM_PLE__SEED", "x"), ("BULLPEN_SIM_PLE__SEDE", "1"), ("BULLPEN_SIM_PLE__LATENCY_MS", "{oops")],
)
def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=r"BULLPEN_SIM_PLE__"):
        load("", tmp_path, **{name: value})


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "[1, {a: .inf}]"])
def test_a_number_without_end_is_refused_with_its_place(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"config.yaml:2: .*finite"):
        load(f"seed: 1\nnames: {value}\n", tmp_path)


@pytest.mark.parametrize("value", ["Infinity", "NaN", '{"fixed": -Infinity}', "[" * 60 + "]" * 60, "[" * 100_000])
def test_a_value_without_end_in_the_environment_names_the_variable(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"BULLPEN_SIM_PLE__.*(finite|nested|JSON)"):
        load("", tmp_path, BULLPEN_SIM_PLE__LATENCY_MS=value)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (Path("/dev/zero"), Path("/dev/null"), pipe):
        with pytest.raises(ConfigError, match="is not a file"):
            load_config(Outer, "x", path, {})
        with pytest.raises(ConfigError, match=r"A_KEY_FILE: .* is not a file"):
            secret("A_KEY", {"A_KEY_FILE": str(pipe)})


def test_a_file_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="larger than"):
        load_config(Outer, "x", large, {})
    with pytest.raises(ConfigError, match=r"A_KEY_FILE: .*larger than"):
        secret("A_KEY", {"A_KEY_FILE": str(large)})


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_config(Outer, "x", tmp_path / "nowhere.yaml", {})


def test_a_secret_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    assert secret("KEY", {"KEY": "direct"}) == "direct"
    assert secret("KEY", {"KEY_FILE": str(tmp_path / "key")}) == "from-file"
    assert secret("KEY", {}) is None
    with pytest.raises(ConfigError, match="KEY_FILE"):
        secret("KEY", {"KEY_FILE": str(tmp_path / "nope")})


def test_the_managers_own_file_is_its_defaults() -> None:
    """The file in the repository shows what holds when nothing is changed."""
    assert load_config(ManagerConfig, "manager", Path("manager/config.yaml"), {}) == ManagerConfig()
