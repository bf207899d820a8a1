"""LangChain's own suite, run by the pytest that is installed beside LangChain."""

from pathlib import Path

from tests.clients.installed import HERE, PYTHON, needs, run
from tests.clients.served import Served

SETTINGS = {
    "asyncio_mode": "auto",
    "asyncio_default_test_loop_scope": "session",
    "asyncio_default_fixture_loop_scope": "session",
}


@needs("python")
def test_its_integration_tests_pass(served: Served, tmp_path: Path) -> None:
    folder = HERE / "python"
    settings = [word for name, value in SETTINGS.items() for word in ("-o", f"{name}={value}")]
    alone = ["-c", "/dev/null", "--rootdir", str(folder), "--confcutdir", str(folder), "-p", "no:cacheprovider"]
    suite = str(folder / "langchain_suite.py")
    done = run([PYTHON, "-m", "pytest", "-q", *alone, *settings, suite], tmp_path, served.environment)
    assert done.code == 0, done.out[-20_000:]
    assert " passed" in done.out
