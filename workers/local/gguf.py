"""Reads a GGUF file before it is loaded: how much memory its model needs, and what it can do."""

import struct
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""How a number of each type is packed."""
MOST = 10_000
"""The most keys that an undamaged file has."""
LONGEST = 16 << 20
"""The most bytes of a text in an undamaged file."""
PIECE = 8 << 20
OTHERS = ("t5encoder", "wavtokenizer-dec", "clip")
"""Architectures that cannot chat, beside those that end in `bert`."""
HALF = 2
"""Bytes of a number in the cache of a conversation."""
OVERHEAD = 32 << 20
"""Bytes of llama.cpp's work buffers, about."""

Value = int | float | bool | str | None


def memory_needed(path: Path, context: int) -> int:
    """Bytes for the model and for the cache of `context` tokens. Raises `OSError`, `ValueError`."""
    told = metadata(path)
    model = told.get("general.architecture")

    def number(key: str, default: int) -> int:
        found = told.get(f"{model}.{key}")
        return found if isinstance(found, int) else default

    width, heads = number("embedding_length", 0), number("attention.head_count", 1)
    kept = number("attention.head_count_kv", heads)
    key, value = (number(f"attention.{name}_length", width // max(1, heads)) for name in ("key", "value"))
    remembered = number("block_count", 0) * kept * (key + value) * HALF * context
    return path.stat().st_size + remembered + OVERHEAD


def context_length(path: Path) -> int | None:
    """Tokens of the longest conversation that the model was trained for; None when the file does not say. Raises
    `OSError`, `ValueError`.
    """
    told = metadata(path)
    found = told.get(f"{told.get('general.architecture')}.context_length")
    return found if isinstance(found, int) else None


def chats(path: Path) -> bool:
    """Whether the file's model can chat, as far as the file says. Raises `OSError`, `ValueError`."""
    told = metadata(path)
    model = str(told.get("general.architecture"))
    return f"{model}.pooling_type" not in told and not model.endswith("bert") and model not in OTHERS


def has_pooling(path: Path) -> bool:
    """Whether the file says how the vectors of tokens become one. Raises `OSError`, `ValueError`."""
    told = metadata(path)
    return f"{told.get('general.architecture')}.pooling_type" in told


def metadata(path: Path) -> dict[str, Value]:
    """The file's metadata, without lists. Raises `OSError`, and `ValueError` for a file of another kind."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError(f"{path} is no GGUF file")
        _version, _tensors, count = _read(file, "IQQ")
        if count > MOST:
            raise ValueError(f"{path} is broken")
        return {_text(file): _value(file, _read(file, "I")[0]) for _ in range(count)}


def read_through(path: Path) -> None:
    """Reads the file once, so that the system keeps it in memory."""
    with path.open("rb") as file:
        while file.read(PIECE):
            pass


def _value(file: BinaryIO, kind: int) -> Value:
    """A value; None for a list, which is skipped."""
    if kind == STRING:
        return _text(file)
    if kind != ARRAY:
        found: Value = _read(file, _packed(kind))[0]
        return found
    of, count = _read(file, "IQ")
    if of in (STRING, ARRAY):
        for _ in range(count):
            _value(file, of)
    else:
        file.seek(count * struct.calcsize(_packed(of)), 1)
    return None


def _packed(kind: int) -> str:
    if kind not in SIZES:
        raise ValueError(f"a value of type {kind}")
    return SIZES[kind]


def _text(file: BinaryIO) -> str:
    (size,) = _read(file, "Q")
    if size > LONGEST:
        raise ValueError("a text without end")
    return file.read(size).decode(errors="replace")


def _read(file: BinaryIO, packed: str) -> tuple[int, ...]:
    layout = struct.Struct(f"<{packed}")
    try:
        return layout.unpack(file.read(layout.size))
    except struct.error as error:
        raise ValueError(f"the file ends too early: {error}") from None
