"""How many tokens a prompt has, roughly: one rule for prompts, caches, limits and time-outs, never for bills.

A prompt is all that a model reads: the texts of its messages, their images, sounds and files, tool calls and their
results, and the descriptions of the tools and of the wanted answer.
"""

import json

from contracts.embedding import EmbeddingRequest, Request
from contracts.request import AudioPart, ChatMessage, FilePart, ImagePart, InferenceRequest

BYTES_PER_TOKEN = 4
"""Bytes of UTF-8 per token. Fits English and most tokenizers; other scripts have more bytes per character, and more
tokens.
"""
IMAGE_TOKENS, SMALL_IMAGE_TOKENS = 1000, 85
"""Tokens of an image, and of one with `detail: low`. Providers count by the pixels, which only they look at."""


ATTACHED_BYTES_PER_TOKEN = 500
"""Bytes of base64 per token, of a sound or of a file that is no text. Its length or its pages only a provider looks
at.
"""


def utf8_bytes(text: str) -> int:
    """Bytes of UTF-8 in a text, from which its tokens are estimated."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def message_bytes(message: ChatMessage) -> int:
    """The size of a message's words, images and tool calls, as bytes of text with as many tokens."""
    if isinstance(message.content, str) and not message.tool_calls:
        return utf8_bytes(message.content)
    size = utf8_bytes(message.text) + _json_bytes(message.tool_calls)
    size += utf8_bytes(message.reasoning_content or "") if message.tool_calls else 0
    size += sum(_attached_bytes(part) for part in message.attachments)
    parts = () if message.content is None or isinstance(message.content, str) else message.content
    return size + BYTES_PER_TOKEN * sum(_image_tokens(part) for part in parts if isinstance(part, ImagePart))


def frame_bytes(request: InferenceRequest) -> int:
    """The size of what a model reads before the first message: its tools, and the form of its answer."""
    return _json_bytes(request.tools) + _json_bytes(request.response_format)


def tokens_of(size: int) -> int:
    """About how many tokens `size` bytes of UTF-8 are; 1 at least."""
    return 1 + size // BYTES_PER_TOKEN


def prompt_tokens(request: Request) -> int:
    """Estimated tokens of the whole prompt, earlier turns and the system text included; or of all texts together."""
    if isinstance(request, EmbeddingRequest):
        return sum(tokens_of(utf8_bytes(text)) for text in request.texts)
    return tokens_of(frame_bytes(request) + sum(message_bytes(message) for message in request.conversation))


def longest_text_tokens(request: Request) -> int | None:
    """Estimated tokens of the longest of several texts that are read separately; 0: it is cut to what fits.

    None: the whole request is read at once.
    """
    if not isinstance(request, EmbeddingRequest):
        return None
    return 0 if request.truncate else max(tokens_of(utf8_bytes(text)) for text in request.texts)


def _image_tokens(part: ImagePart) -> int:
    return SMALL_IMAGE_TOKENS if part.image_url.detail == "low" else IMAGE_TOKENS


def _attached_bytes(part: AudioPart | FilePart) -> int:
    data = part.input_audio.data if isinstance(part, AudioPart) else part.file.file_data
    if data.startswith("data:text/"):
        return len(data) * 3 // 4
    return BYTES_PER_TOKEN * (1 + len(data) // ATTACHED_BYTES_PER_TOKEN)


def _json_bytes(told: object) -> int:
    return utf8_bytes(json.dumps(told, ensure_ascii=False)) if told else 0
