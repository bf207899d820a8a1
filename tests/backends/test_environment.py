"""What the machine's environment says of proxies and certificates reaches a backend only where it is meant."""

import os
import sys
from typing import Any

import pytest

from tests.unit.test_proxies import HOSTILE
from workers.base.interface.discovery import discover

CONFIGS: dict[str, dict[str, Any]] = {
    "openai": {"base_url": "http://127.0.0.1:9/v1"},
    "anthropic": {"base_url": "http://127.0.0.1:9"},
    "gemini": {"base_url": "http://127.0.0.1:9"},
    "ollama": {"host": "127.0.0.1:9"},
}


@pytest.mark.parametrize("name", CONFIGS)
async def test_no_variable_keeps_a_backend_from_a_server_on_this_machine(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in HOSTILE.items():
        monkeypatch.setenv(variable, value)
    for module in [module for module in sys.modules if module.partition(".")[0] == "ollama"]:
        monkeypatch.delitem(sys.modules, module)  # some read them when they are imported
    monkeypatch.delitem(sys.modules, f"workers.{name}.backend", raising=False)
    backend_class = discover()[name].load()
    backend = backend_class(backend_class.config_class(**CONFIGS[name]))
    await backend.close()
    assert os.environ.items() >= HOSTILE.items()


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
async def test_a_backend_that_asks_outside_names_the_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/none/ca.pem")
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-none")
    found = await discover()[name].available()
    assert found.reason.startswith("SSL_CERT_FILE names /none/ca.pem")
