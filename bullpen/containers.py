"""Docker Compose, through `docker compose` or the older `docker-compose`. Only this module uses it."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

VERSION = "BULLPEN_VERSION"
SERVICE_LABEL, PROJECT_LABEL, HASH_LABEL = (
    f"com.docker.compose.{name}" for name in ("service", "project", "config-hash")
)
STOPS_WITHIN = 45
"""Seconds for a container to stop: longer than a role's 30 s to finish what it does."""
SAID = 2000
"""Characters of a failed command's output that an error repeats."""


class ContainersError(Exception):
    """Docker or Compose failed; the message has its output."""


class Made(NamedTuple):
    """What a container was made from."""

    image: str
    """The image's id."""
    config: str
    """Compose's hash of the service."""


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a service."""

    id: str
    made: Made
    ready: bool
    """Healthy by its own check; running, where it has none."""
    failed: bool
    """Whether the container has ended, or its health check failed for good."""


class Compose:
    """The project in this folder. Every method raises `ContainersError`."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = {**os.environ, **(environment or {})}

    @cached_property
    def _compose(self) -> list[str]:
        for command in (["docker", "compose"], ["docker-compose"]):
            if shutil.which(command[0]) and self._succeeds([*command, "version"]):
                return command
        raise ContainersError("neither `docker compose` nor `docker-compose` runs here: install Docker Compose")

    @cached_property
    def built(self) -> dict[str, str]:
        """The active services that are built here, each with the name and tag of its image."""
        document: dict[str, Any] = yaml.safe_load(self.compose("config"))
        active = set(self.compose("config", "--services").split())
        services: dict[str, Any] = document["services"]
        return {name: told["image"] for name, told in services.items() if "build" in told and name in active}

    def compose(self, *arguments: str, stdin: str | None = None) -> str:
        """The standard output of a Compose command."""
        return self._run([*self._compose, *arguments], stdin)

    def docker(self, *arguments: str) -> str:
        """The standard output of a Docker command."""
        return self._run(["docker", *arguments])

    def has_image(self, image: str) -> bool:
        return self._succeeds(["docker", "image", "inspect", image])

    def wanted(self, service: str) -> Made:
        """What a new container of this service would be made from."""
        image = self.docker("image", "inspect", "--format", "{{.Id}}", self.built[service]).strip()
        return Made(image, self.compose("config", f"--hash={service}").split()[-1])

    def containers(self, service: str) -> list[Container]:
        """The containers that run, or that Docker is about to restart."""
        ids = self.compose("ps", "-q", service).split()
        return [self._inspected(one) for one in ids]

    def start_one_more(self, service: str) -> None:
        """Starts another container of a service, as compose.yaml describes it now; the others stay as they are."""
        count = len(self.containers(service)) + 1
        self.compose("up", "-d", "--no-deps", "--no-build", "--no-recreate", "--scale", f"{service}={count}", service)

    def remove(self, container_id: str) -> None:
        """Stops a container in order, and deletes it."""
        self.docker("stop", "-t", str(STOPS_WITHIN), container_id)
        self.docker("rm", "--force", container_id)

    def last_words(self, container_id: str) -> str:
        """The end of the container's log."""
        return self._run(["docker", "logs", "--tail", "8", container_id], both=True).strip()

    def running_services(self, project: str) -> dict[str, list[str]]:
        """Every service of the project that has running containers, with their ids."""
        line = f'{{{{.ID}}}} {{{{.Label "{SERVICE_LABEL}"}}}}'
        told = self.docker("ps", "--filter", f"label={PROJECT_LABEL}={project}", "--format", line)
        found: dict[str, list[str]] = {}
        for one in told.splitlines():
            container_id, _, service = one.partition(" ")
            found.setdefault(service, []).append(container_id)
        return found

    def project_of(self, container_id: str) -> str:
        return self.docker("inspect", "--format", _label(PROJECT_LABEL), container_id).strip()

    def _inspected(self, container_id: str) -> Container:
        health = "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}"
        line = f"{{{{.Image}}}} {{{{.State.Status}}}} {health} {_label(HASH_LABEL)}"
        image, state, health, config = self.docker("inspect", "--format", line, container_id).split()
        ready = state == "running" and health in ("healthy", "none")
        failed = state in ("exited", "dead") or health == "unhealthy"
        return Container(container_id, Made(image, config), ready, failed)

    def _succeeds(self, command: Sequence[str]) -> bool:
        try:
            self._run(command)
        except ContainersError:
            return False
        return True

    def _run(self, command: Sequence[str], stdin: str | None = None, *, both: bool = False) -> str:
        try:
            done = subprocess.run(  # noqa: S603 — Docker's own programs, arguments of ours
                command,
                cwd=self._folder,
                env=self._environment,
                input=stdin or "",
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise ContainersError(f"{command[0]} cannot be run: {error.strerror}") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-SAID:]
            raise ContainersError(f"`{' '.join(command[:4])} …` failed: {said}")
        return done.stdout + done.stderr if both else done.stdout


def _label(name: str) -> str:
    return f'{{{{index .Config.Labels "{name}"}}}}'
