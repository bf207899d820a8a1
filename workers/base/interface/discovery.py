"""Finds backends. A backend is one folder; no list names it.

A folder under `workers/` with a `backend.py` is a built-in backend. An installed package adds one with an entry point
in the group `bullpen.workers`. Any other folder is given by its path.
"""

import hashlib
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import structlog
import yaml

from config.loader import ConfigError
from config.watched_file import ConfigFile
from contracts.subjects import is_name
from workers.base.interface.backend import Availability, Backend
from workers.base.interface.config import BackendConfig

log = structlog.get_logger(__name__)

HOUSE = Path(__file__).resolve().parents[2]
ENTRY_POINTS = "bullpen.workers"

AnyBackend = Backend[Any]
ASKS = {"base_url", "key_variable"}
"""Settings that name a server or another key: with one of them, the user asks for this backend."""


@dataclass(frozen=True, slots=True)
class BackendFolder:
    """A backend that was found but not imported yet: its SDK may be missing."""

    name: str
    path: Path
    module: str

    def load(self) -> type[AnyBackend]:
        """The folder's `Backend` subclass. Raises `ImportError` when its SDK is not installed."""
        module = importlib.import_module(self.module) if self.module else _from_path(self.name, self.path)
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Backend) and value.__module__ == module.__name__
        ]
        if len(found) != 1:
            raise ConfigError(f"{self.path / 'backend.py'}: should define one subclass of Backend, found {len(found)}")
        if found[0].name != self.name:
            raise ConfigError(f"{self.path / 'backend.py'}: its name is {found[0].name!r}, its folder's {self.name!r}")
        return found[0]

    def config(self, path: Path | None = None) -> BackendConfig:
        """The folder's `config.yaml` (or the file at `path`), with `BULLPEN_<NAME>__*` on top."""
        return self.config_file(path).load()

    def config_file(self, path: Path | None = None) -> ConfigFile[BackendConfig]:
        """The config file as an object that can follow its changes while the worker runs."""
        return ConfigFile(self.load().config_class, self.name, path or self.path / "config.yaml")

    async def available(self, path: Path | None = None) -> Availability:
        """Whether this backend can run here now, and what to do when it cannot. Never raises.

        `path`: a config to read instead of the folder's own.
        """
        try:
            if (unasked := self._unasked(path)) is not None:
                return unasked
            return await self.load().available(self.config(path))
        except ModuleNotFoundError as error:
            missing = error.name or str(error)
            return Availability.no(
                f"the package {missing} is not installed", f"pip install 'bullpen-mesh[{self.name}]'"
            )
        except ImportError as error:
            cure = "install the library it names with your system's package manager"
            return Availability.no(f"its SDK cannot be loaded: {error}", cure, is_broken=True)
        except ConfigError as error:
            return Availability.no(str(error), "correct the file", is_broken=True)
        except Exception as error:
            told = f"its code failed: {type(error).__name__}: {error}"
            return Availability.no(told, f"correct {self.path / 'backend.py'}", is_broken=True)

    def _unasked(self, path: Path | None) -> Availability | None:
        """The reason why a provider's backend does not run when neither environment nor config asks for it. Its SDK,
        which is slow to import, is not needed for this.

        None when the backend is asked for, or when only its code can decide.
        """
        package = self.module.rpartition(".")[0]
        told = getattr(importlib.import_module(package), "UNASKED", None) if package and path is None else None
        if told is None:
            return None
        reason, key, url = told
        named = any(os.environ.get(name) for one in (key, url) for name in (one, f"{one}_FILE"))
        if named or any(name.startswith(f"BULLPEN_{self.name.upper()}__") for name in os.environ):
            return None
        settings = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        if ASKS & settings.keys():
            return None
        return Availability.no(reason, f"set {key}, or {url} for a server of your own")


def discover() -> dict[str, BackendFolder]:
    """All built-in and installed backends by name, in alphabetical order."""
    found = {
        folder.name: BackendFolder(folder.name, folder, f"workers.{folder.name}.backend")
        for folder in HOUSE.iterdir()
        if is_name(folder.name) and folder.name != "base" and (folder / "backend.py").is_file()
    }
    for point in entry_points(group=ENTRY_POINTS):
        origin = _origin(point)
        if origin is not None and is_name(point.name):
            found.setdefault(point.name, BackendFolder(point.name, origin.parent, point.module))
        else:
            log.warning("backend_not_found", name=point.name, entry_point=point.value)
    return dict(sorted(found.items()))


def _origin(point: EntryPoint) -> Path | None:
    """The file of an entry point's module. None for a broken package, so that it does not stop the others."""
    try:
        spec = importlib.util.find_spec(point.module)
    except Exception as error:
        log.debug("backend_not_found", entry_point=point.value, error=str(error))
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def find(name_or_path: str) -> BackendFolder:
    """The backend with this name, or in the folder at this path. Raises `ConfigError` with the known names."""
    known = discover()
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path).resolve()
    if (path / "backend.py").is_file():
        if not is_name(path.name):
            raise ConfigError(f"{path}: a backend's folder is named with A-Z a-z 0-9 _ - only")
        return BackendFolder(path.name, path, "")
    raise ConfigError(
        f"there is no backend {name_or_path!r}: known are {', '.join(known)}; or give a folder with a backend.py"
    )


def _from_path(name: str, path: Path) -> Any:
    """The module of a folder outside the packages; the same module each time, so that its classes stay the same."""
    module_name = f"bullpen_worker_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}_{name}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path / "backend.py")
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path / 'backend.py'}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
