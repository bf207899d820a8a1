"""Reads config files, and the environment variables that override them.

Every `config.yaml` is read the same way: first the file, then `BULLPEN_<NAME>__<KEY>` from the environment (JSON for
structures). An error names file, line and field. A config with an error is not used at all.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

MAX_CONFIG_BYTES = 1 << 20
MAX_SECRET_BYTES = 64 << 10
DEEPEST = 50
"""Levels of nested lists and mappings that a config file may have."""


class ConfigModel(BaseModel):
    """A part of a config file: unknown keys are errors, because a typo must not be silent."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ConfigError(Exception):
    """A config file or an environment variable cannot be used; the message says where and why."""


S = TypeVar("S", bound=ConfigModel)


def load_config(cls: type[S], name: str, path: Path | None, environ: Mapping[str, str] | None = None) -> S:
    """The settings of `name` from `path` (may be None: defaults) and `BULLPEN_<NAME>__*`.

    Raises `ConfigError` naming file, line and field, or the environment variable.
    """
    prefix = _prefix(name)
    document, lines = _read(path) if path is not None else ({}, {})
    overrides = _from_environment(cls, prefix, os.environ if environ is None else environ)
    told = _merged(document, overrides)
    for loc, wrong in _impossible(told):
        raise ConfigError(f"{_place(loc, path, lines, overrides, prefix)}: {wrong}")
    try:
        return cls.model_validate(told)
    except ValidationError as error:
        raise ConfigError(
            "; ".join(_located(detail, path, lines, overrides, prefix) for detail in error.errors(include_url=False))
        ) from None


def _impossible(value: Any, loc: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Values that no setting can have, with their place: an infinite number, or nesting without end."""
    if isinstance(value, float) and not isfinite(value):
        yield loc, "should be a finite number"
    elif isinstance(value, dict | list):
        if len(loc) >= DEEPEST:
            yield loc[:1], f"is nested deeper than {DEEPEST} levels"
            return
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _impossible(child, (*loc, key if isinstance(key, int) else str(key)))


def place_of(cls: type[BaseModel], name: str, path: Path | None, field: str) -> str:
    """Where `field` (a dotted path) is set: `<file>:<line>: <field>`, or the environment variable."""
    prefix = _prefix(name)
    parts = tuple(int(part) if part.isdigit() else part for part in field.split("."))
    try:
        lines = _read(path)[1] if path is not None else {}
        overrides = _from_environment(cls, prefix, os.environ)
    except ConfigError:  # it was readable a moment ago
        lines, overrides = {}, {}
    return _place(parts, path, lines, overrides, prefix)


def secret(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The secret `name` from the environment, or from the file that `<name>_FILE` names; None when unset."""
    environ = os.environ if environ is None else environ
    if value := environ.get(name):
        return value
    if path := environ.get(f"{name}_FILE"):
        try:
            return _file(Path(path), MAX_SECRET_BYTES).strip() or None
        except ConfigError as error:
            raise ConfigError(f"{name}_FILE: {error}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{name}_FILE: {path} is not UTF-8 text") from None
        except OSError as error:
            raise ConfigError(f"{name}_FILE: cannot read {path}: {error.strerror}") from None
    return None


def _file(path: Path, most: int) -> str:
    """The text of a regular file. A device or a pipe is refused: it may have no end, or keep its reader waiting.

    Raises `ConfigError`, `OSError`, `UnicodeDecodeError`.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # opening a folder says so itself
        raise ConfigError(f"{path} is not a file, but a device or a pipe: copy what it says into a file")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ConfigError(f"{path}: larger than {most} bytes")
    return data.decode()


def _prefix(name: str) -> str:
    return f"BULLPEN_{name.upper().replace('-', '_')}__"


def _read(path: Path) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    try:
        text = _file(path, MAX_CONFIG_BYTES)
        loader = _Loader(text)
        root = loader.get_single_node()
        document = loader.construct_document(root) if root is not None else None
        lines = dict(_line_numbers(root, ()))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except ReaderError as error:
        line = text[: error.position].count("\n") + 1
        code = f"U+{ord(text[error.position]):04X}"
        raise ConfigError(f"{path}:{line}: not valid YAML: the character {code} may not be in it") from None
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error or type(error).__name__}") from None
    if document is None:
        return {}, {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}:1: should be a mapping of keys to values")
    return document, lines


class _Loader(yaml.SafeLoader):
    """Refuses also a key that stands twice, which would go unnoticed; nesting without end; and aliases (`*x`), which
    can make billions of parts out of a few lines.
    """

    _depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        again = self.check_event(yaml.AliasEvent)
        if self._depth == DEEPEST and parent is not None:
            raise ComposerError(None, None, f"is nested deeper than {DEEPEST} levels", parent.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if again and node is not None:
            raise ComposerError(None, None, "write this out where it is used, *names are not followed", node.start_mark)
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode) and key.value in seen:
                raise ConstructorError(None, None, f"{key.value} stands twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Adds the line to PyYAML's own errors: impossible dates, numbers of thousands of digits."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise ConstructorError(None, None, str(error) or type(error).__name__, node.start_mark) from None


def _line_numbers(node: Node | None, at: tuple[str | int, ...]) -> "list[tuple[tuple[str | int, ...], int]]":
    if node is None:
        return []
    found = [(at, node.start_mark.line + 1)]
    if isinstance(node, MappingNode):
        for key, value in node.value:
            found += [((*at, key.value), key.start_mark.line + 1)]
            found += _line_numbers(value, (*at, key.value))[1:]
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            found += _line_numbers(value, (*at, index))
    return found


def _from_environment(cls: type[BaseModel], prefix: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings from the environment, parsed by pydantic-settings (JSON for structures, `__` for nesting)."""

    class Overrides(BaseSettings):
        model_config = SettingsConfigDict(extra="forbid")

    class Source(EnvSettingsSource):
        def _load_env_vars(self) -> Mapping[str, str | None]:
            return {key.lower(): value for key, value in environ.items()}

    Overrides.__pydantic_fields__ = cls.model_fields
    known = {field.lower() for field in cls.model_fields}
    for key in environ:
        if key.upper().startswith(prefix) and len(environ[key]) > MAX_CONFIG_BYTES:
            raise ConfigError(f"{key}: larger than {MAX_CONFIG_BYTES} bytes")
        if key.upper().startswith(prefix) and key[len(prefix) :].split("__")[0].lower() not in known:
            raise ConfigError(f"{key}: there is no such setting; known are {', '.join(sorted(known))}")
    try:
        return dict(Source(Overrides, env_prefix=prefix, env_nested_delimiter="__", case_sensitive=False)())
    except RecursionError:
        raise ConfigError(f"environment {prefix}…: is nested deeper than {DEEPEST} levels") from None
    except ValueError as error:
        raise ConfigError(f"environment {prefix}…: {error}; structures are written as JSON") from None


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _located(
    detail: Any, path: Path | None, lines: Mapping[tuple[str | int, ...], int], overrides: dict[str, Any], prefix: str
) -> str:
    message = "unknown key" if detail["type"] == "extra_forbidden" else detail["msg"].removeprefix("Value error, ")
    return f"{_place(detail['loc'], path, lines, overrides, prefix)}: {message}"


def _place(
    loc: tuple[str | int, ...],
    path: Path | None,
    lines: Mapping[tuple[str | int, ...], int],
    overrides: dict[str, Any],
    prefix: str,
) -> str:
    field = ".".join(str(part) for part in loc)
    if loc and loc[0] in overrides:
        return f"{prefix}{str(loc[0]).upper()}: {field}"
    known = next((loc[:n] for n in range(len(loc), -1, -1) if loc[:n] in lines), None)
    where = f"{path}:{lines[known]}" if known is not None else str(path or "configuration")
    return f"{where}: {field}"
