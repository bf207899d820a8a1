"""What a process that was forked becomes: `bullpen`, as if it had been started anew."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import NoReturn


def become_bullpen(arguments: Sequence[str], env: Mapping[str, str], prepare: Callable[[], None]) -> NoReturn:
    """Runs the command to its end, and ends this process with its exit code. `prepare`: sets up its descriptors."""
    code: object = 1
    try:
        prepare()
        os.environ.clear()
        os.environ.update(env)
        sys.argv = ["bullpen", *arguments]
        import_module("bullpen.cli").main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
