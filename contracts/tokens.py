"""How many tokens a text has, roughly: one rule for prompts, caches and limits, never for bills."""

from contracts.request import InferenceRequest

BYTES_PER_TOKEN = 4
"""Of UTF-8. Fits English and most tokenizers; other scripts have more bytes per character, and more tokens."""


def utf8_bytes(text: str) -> int:
    """The size of a text, from which its tokens are estimated."""
    return len(text) if text.isascii() else len(text.encode())


def tokens_of(size: int) -> int:
    """About how many tokens `size` bytes of UTF-8 are; 1 at least."""
    return 1 + size // BYTES_PER_TOKEN


def prompt_tokens(request: InferenceRequest) -> int:
    """About how many tokens the prompt has, earlier turns and the system text included."""
    return tokens_of(sum(utf8_bytes(message.text) for message in request.conversation))
