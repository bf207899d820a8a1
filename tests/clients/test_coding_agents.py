"""Coding agents from the command line, unmodified, as docs/clients tells people to set them up.

Each is asked something, has one of its own tools called by the model, is refused, and is stopped in mid-answer.
"""

import json
import signal
from abc import ABC, abstractmethod
from base64 import b64decode
from pathlib import Path
from secrets import token_hex

import pytest
from jsonschema import validate

from tests.clients.installed import WITHIN, Done, needs, node_tool, run, running
from tests.clients.pages import block, told
from tests.clients.played import OBEDIENT
from tests.clients.served import SLOW, Served

QUESTION = "What is the answer?"
NO_NEWS = "[analytics]\nenabled = false\n"
"""Codex tells OpenAI nothing of our tests. What the others are told for it stands in their environment."""
PNG = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


class CodingAgent(ABC):
    """One of them, in a home of its own, in whose folder it works."""

    def __init__(self, served: Served, home: Path) -> None:
        self.home = home
        self.environment: dict[str, str] = {}
        self.set_up(served)

    @abstractmethod
    def set_up(self, served: Served) -> None:
        """As its page says."""

    @abstractmethod
    def command(self, question: str, model: str = "") -> list[str]:
        """How it is asked without a terminal. `model`: another one than its page names."""

    @abstractmethod
    def order(self, secret: Path) -> str:
        """What tells the obedient model to have this file read by a tool of the agent's."""

    def order_to_look(self, picture: Path) -> str:
        """The same for a picture."""
        return self.order(picture)

    @abstractmethod
    def use(self, key: str) -> None:
        """Another key than the right one."""

    def ask(self, question: str, model: str = "") -> Done:
        return run(self.command(question, model), self.home, self.environment)


class Codex(CodingAgent):
    def set_up(self, served: Served) -> None:
        (self.home / ".codex").mkdir()
        (self.home / ".codex" / "config.toml").write_text(f"{told(block('codex', 'toml'), served)}\n{NO_NEWS}")
        self.environment["BULLPEN_KEY"] = served.key

    def command(self, question: str, model: str = "") -> list[str]:
        chosen = ["--model", model] if model else []
        return [node_tool("codex", "codex"), "exec", "--skip-git-repo-check", *chosen, question]

    def order(self, secret: Path) -> str:
        return f"CALL exec_command cmd=cat {secret.name} DONE"

    def order_to_look(self, picture: Path) -> str:
        return f"CALL view_image path={picture} DONE"

    def use(self, key: str) -> None:
        self.environment["BULLPEN_KEY"] = key


class OpenCode(CodingAgent):
    def set_up(self, served: Served) -> None:
        config = json.loads(told(block("opencode", "json"), served))
        sees = {"attachment": True, "modalities": {"input": ["text", "image"], "output": ["text"]}}
        config["provider"]["bullpen"]["models"] |= {OBEDIENT: sees, SLOW: {}, "nobody": {}}
        (self.home / "opencode.json").write_text(json.dumps(config))
        self.environment = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}

    def command(self, question: str, model: str = "") -> list[str]:
        chosen = ["--model", f"bullpen/{model}"] if model else []
        return [node_tool("opencode", "opencode"), "run", "--print-logs", *chosen, question]

    def order(self, secret: Path) -> str:
        return f"CALL read filePath={secret} DONE"

    def use(self, key: str) -> None:
        config = json.loads((self.home / "opencode.json").read_text())
        config["provider"]["bullpen"]["options"]["apiKey"] = key
        (self.home / "opencode.json").write_text(json.dumps(config))


class ClaudeCode(CodingAgent):
    def set_up(self, served: Served) -> None:
        self._settings = told(block("claude-code", "sh"), served)
        self.environment["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"

    def command(self, question: str, model: str = "") -> list[str]:
        chosen = ["--model", model] if model else []
        claude = [node_tool("claude-code", "claude"), "-p", *chosen, question]
        return ["sh", "-c", f'{self._settings}\nexec "$@"', "sh", *claude]

    def order(self, secret: Path) -> str:
        return f"CALL Read file_path={secret} DONE"

    def use(self, key: str) -> None:
        self._settings += f"\nexport ANTHROPIC_AUTH_TOKEN={key}"


class Continue(CodingAgent):
    def set_up(self, served: Served) -> None:
        self._config = self.home / "config.yaml"
        self._config.write_text(told(block("continue", "yaml"), served))
        self._key = served.key
        self.environment["CONTINUE_TELEMETRY_ENABLED"] = "0"

    def command(self, question: str, model: str = "") -> list[str]:
        if model:
            self._config.write_text(self._config.read_text().replace("model: auto", f"model: {model}"))
        return [node_tool("continue", "cn"), "--config", str(self._config), "-p", question]

    def order(self, secret: Path) -> str:
        return f"CALL Read filepath={secret} DONE"

    def use(self, key: str) -> None:
        self._config.write_text(self._config.read_text().replace(self._key, key))


AGENTS = [
    pytest.param(Continue, marks=needs("continue"), id="continue"),
    pytest.param(Codex, marks=needs("codex"), id="codex"),
    pytest.param(OpenCode, marks=needs("opencode"), id="opencode"),
    pytest.param(ClaudeCode, marks=needs("claude-code"), id="claude-code"),
]


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest, served: Served, tmp_path: Path) -> CodingAgent:
    made: CodingAgent = request.param(served, tmp_path)
    return made


def test_it_is_answered_and_has_its_own_tool_called(served: Served, agent: CodingAgent) -> None:
    """The model is told what the tool returned, and its next answer is what the agent prints."""
    secret = agent.home / "secret.txt"
    secret.write_text(token_hex(8))
    with served.played_worker(OBEDIENT):
        done = agent.ask(agent.order(secret), OBEDIENT)
    assert done.code == 0, done.err
    assert secret.read_text() in done.out, done


@pytest.mark.parametrize("agent", AGENTS[1:], indirect=True)  # Continue's tool reads text alone
def test_the_model_sees_a_picture_that_the_agents_tool_shows(served: Served, agent: CodingAgent) -> None:
    picture = agent.home / "picture.png"
    picture.write_bytes(PNG)
    with served.played_worker(OBEDIENT):
        done = agent.ask(agent.order_to_look(picture), OBEDIENT)
    assert done.code == 0, done.err
    assert "1 pictures" in done.out, done


def test_it_is_answered_by_the_model_that_its_page_names(served: Served, agent: CodingAgent) -> None:
    done = agent.ask(QUESTION)
    assert done.code == 0, done.err
    assert len(done.out.split()) > 10


@pytest.mark.parametrize("wrong", ["model", "key"])
def test_it_says_what_is_wrong(served: Served, agent: CodingAgent, wrong: str) -> None:
    if wrong == "key":
        agent.use("bp-wrong")
    done = agent.ask(QUESTION, "nobody" if wrong == "model" else "")
    said = done.out + done.err
    assert ("nobody" if wrong == "model" else "key") in said, done


def test_one_that_is_stopped_stops_the_work(served: Served, agent: CodingAgent) -> None:
    with served.slow_worker(), running(agent.command(QUESTION, SLOW), agent.home, agent.environment) as process:
        served.eventually(served.is_busy)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WITHIN)
        served.eventually(lambda: not served.is_busy())


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


@needs("codex")
def test_codex_ends_with_json_that_is_valid_for_a_schema(served: Served, tmp_path: Path) -> None:
    codex = Codex(served, tmp_path)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    done = run([*codex.command(QUESTION), "--output-schema", "schema.json"], tmp_path, codex.environment)
    assert done.code == 0, done.err
    validate(json.loads(done.out), SCHEMA)


@needs("claude-code")
def test_claude_code_ends_with_json_that_is_valid_for_a_schema(served: Served, tmp_path: Path) -> None:
    """It asks for it with a tool, which the simulated model calls when it is named."""
    claude = ClaudeCode(served, tmp_path)
    wanted = ["--output-format", "json", "--json-schema", json.dumps(SCHEMA)]
    done = run([*claude.command("Which city? Call StructuredOutput"), *wanted], tmp_path, claude.environment)
    assert done.code == 0, done.err
    validate(json.loads(done.out)["structured_output"], SCHEMA)
