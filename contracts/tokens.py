"""How many tokens a text has, roughly: for estimates and limits, never for bills."""

from contracts.request import InferenceRequest

BYTES_PER_TOKEN = 4
"""Of English text and most tokenizers; other scripts have more bytes per character, and more tokens."""


def prompt_tokens(request: InferenceRequest) -> int:
    """About how many tokens the question has."""
    return 1 + sum(len(message.text.encode()) for message in request.conversation) // BYTES_PER_TOKEN
