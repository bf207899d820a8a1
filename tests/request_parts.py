"""Pieces of requests, as callers write them."""

from typing import Any

PNG = "data:image/png;base64,iVBORw0KGgo="
SOUND = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
FILE = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": None}}


def deep(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = [value]
    return value


def parts(**changes: Any) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": PNG, **changes}}]


def image(**changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": parts(**changes)}]}


def tool(**changes: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", **changes}}


def said(**field: Any) -> dict[str, Any]:
    return {"prompt": "hi", **field}
