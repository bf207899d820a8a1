"""Config files and their overrides: a mistake is told with file, line and field."""

from pathlib import Path

import pytest

from contracts.settings import ConfigError, ConfigModel, load_config, secret
from manager.config import ManagerConfig


class Inner(ConfigModel):
    fixed: float | None = None


class Outer(ConfigModel):
    seed: int = 1
    latency_ms: Inner = Inner()
    names: tuple[str, ...] = ()


def load(text: str, tmp_path: Path, **environment: str) -> Outer:
    path = tmp_path / "config.yaml"
    path.write_text(text)
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
    ],
)
def test_a_mistake_is_told_with_file_line_and_field(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(text, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("BULLPEN_SIM_PLE__SEED", "x"), ("BULLPEN_SIM_PLE__SEDE", "1"), ("BULLPEN_SIM_PLE__LATENCY_MS", "{oops")],
)
def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=r"BULLPEN_SIM_PLE__"):
        load("", tmp_path, **{name: value})


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
