"""A file that is written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bullpen.cli.running import usage


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A path to write to, which replaces `out` at the end of the block: until then readers see the old file.

    A pipe or a device is written directly. Ends the process when `out` cannot be written.
    """
    plain = out.is_file() or not out.exists()
    unfinished = out.with_name(f".{out.name}.{os.getpid()}") if plain else out
    try:
        yield unfinished
        if plain:
            unfinished.replace(out)
    except OSError as error:
        raise usage(f"{out} cannot be written: {error.strerror}") from None
    finally:
        if plain:
            unfinished.unlink(missing_ok=True)
