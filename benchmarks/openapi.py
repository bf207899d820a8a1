"""Whether the gateway says what `/openapi.json` says: made-up requests, by a suite that nobody here wrote.

schemathesis makes requests that fit the document, and others that do not, and looks at each answer: no status that is
not in the document, none of 5xx, no other content type, no body or header of another form, and nothing accepted that
the document does not allow. What it cannot know is left out: whether a request that fits is also a sensible question.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks import tools
from benchmarks.cancel import started_gateway
from gateway.keys.office import KeyOffice
from tests.roles import AS_SHIPPED, roles_on_a_server

PACKAGE = "schemathesis>=4.20"
LEFT_OUT = "positive_data_acceptance,ignored_auth"
"""What fits the form may ask nothing; and on loopback no key is needed."""
SETTINGS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503, 504]

[checks.negative_data_rejection]
expected-statuses = ["4xx", 503, 504]
"""
"""A request may name a backend that nobody runs, and a deadline of a millisecond: that is told as 503 and 504. What
does not fit the document may be refused for its length first (413, 414, 431)."""
SIMULATED = {"LATENCY_MS": '{"fixed": 0}', "OUTPUT_TOKENS": "4", "MAX_CONCURRENCY": "256"}


def main(cases: int, seed: int) -> None:
    """Ends as schemathesis does."""
    program = tools.installed("schemathesis", PACKAGE) / "st"
    with tempfile.TemporaryDirectory() as directory:
        sys.exit(asyncio.run(_run(program, Path(directory), cases, seed)))


async def _run(program: Path, folder: Path, cases: int, seed: int) -> int:
    async with roles_on_a_server(folder, f'jetstream {{ store_dir: "{folder / "jetstream"}" }}') as roles:
        roles.manager(**AS_SHIPPED)
        roles.worker(**{f"BULLPEN_SIMULATED__{key}": value for key, value in SIMULATED.items()})
        await roles.ready()
        (folder / "schemathesis.toml").write_text(SETTINGS, encoding="utf-8")
        url = await started_gateway(roles, BULLPEN_GATEWAY__UNKNOWN_MODEL="auto")
        failed = await _tried(program, folder, run_words(url, cases, seed))
        roles.kill("g-1")
        _, secret = await (await KeyOffice.open(roles.bus)).create("ops", role="operator")
        url = await started_gateway(roles, BULLPEN_GATEWAY__KEYS="required")
        return await _tried(program, folder, run_words(url, cases, seed, operator=secret)) or failed


ORDERS = r"^/api/v1/(session|events|keys|workers|managers)"
"""What makes keys that then are needed, or gives orders: tried last, by an operator with a key."""
NEVER = r"^/api/v1/(events|keys/)"
"""What has no end, and what would end the key that is asked with: it finds that in the list."""


async def _tried(program: Path, folder: Path, words: list[str]) -> int:
    running = await asyncio.create_subprocess_exec(program, *words, cwd=folder)
    return await running.wait()


def run_words(url: str, cases: int, seed: int, *, operator: str = "") -> list[str]:
    """What schemathesis is told. `operator`: the key of one, who tries orders alone."""
    key = ("--header", f"Authorization: Bearer {operator}", "--include-path-regex", ORDERS)
    return [
        *("run", f"{url}/openapi.json", "--exclude-checks", LEFT_OUT, "--continue-on-failure", "--workers", "1"),
        *("--max-examples", str(cases), "--seed", str(seed), "--warnings", "off", "--request-timeout", "30"),
        *("--suppress-health-check", "all"),
        *((*key, "--exclude-path-regex", NEVER) if operator else ("--exclude-path-regex", ORDERS)),
    ]
