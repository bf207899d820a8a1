"""How servers of OpenAI's API differ, as data: their words for a prompt that is too long, and parameters that models
refuse.

Servers are recognized by their words, not by their names: a proxy passes on the words of the server behind it.
"""

import re

from workers.base.interface.config import Parameter
from workers.base.provider.context_length import COMMON

NUMBER = r"([\d,]+)"

TOO_LONG = COMMON.with_more(
    codes=(
        "input_too_long",
        "prompt_too_long",
        "tokens_limit_reached",
        "context_overflow",
        "model_length",
    ),
    wordings=(
        r"reduce the length of (?:the|your|either)",  # Groq, Cerebras, OpenRouter
        r"maximum prompt length",  # xAI
        r"longer than the (?:maximum model|model's maximum|model's context)",  # vLLM, SGLang
        r"maximum (?:input|sequence|model) length",  # vLLM, LiteLLM
        r"inputs`? tokens \+ `?max_new_tokens`? must be",  # TGI, Together
        r"inputs`? must have less than",  # TGI
        r"too many (?:input |prompt )?tokens",  # Cohere
        r"size limit exceeded by",  # Cohere
        r"prompt contains .* tokens.* too large for model",  # Mistral
        r"(?:input|prompt|request|message)s? (?:is|are) too (?:long|large) for",  # Bedrock and others behind a proxy
        r"tokens to keep from the initial prompt",  # LM Studio
        r"exceeds? (?:the )?(?:available|model's|maximum) (?:context|number of tokens)",  # llama.cpp, Google
        r"input length (?:and|exceeds)",  # DashScope and others
        r"range of input length should be",  # DashScope
    ),
    counts=(
        rf"request contains {NUMBER}",  # xAI
        rf"\(length {NUMBER}\)",  # vLLM
        rf"passed {NUMBER} input",  # vLLM
        rf"given: {NUMBER}",  # TGI, Together
        rf"received {NUMBER}",  # Cohere
        rf"prompt contains {NUMBER}",  # Mistral
        rf"about {NUMBER} tokens",  # OpenRouter
        rf"current length is {NUMBER}",  # Cerebras
        rf"the first {NUMBER} tokens",  # LM Studio
        rf"input \({NUMBER} tokens",  # SGLang
    ),
)

REFUSED: tuple[tuple[str, tuple[Parameter, ...]], ...] = (
    (r"(?:^|[/:])(?:o[1-9]|gpt-5)(?![\d.]*-chat)(?:[-.:]|$)", ("temperature", "top_p", "logprobs")),  # they reason
    (r"(?:^|[/:])deepseek-reasoner$", ("temperature", "top_p", "logprobs")),
    (r"(?:^|[/:])kimi-k2\.5", ("temperature", "top_p")),
)
"""By a model's name, on any server: the parameters that it refuses. Other refusals are learned when they happen."""


def refused_by_name(model: str) -> frozenset[Parameter]:
    """The parameters that a model is known to refuse, by its name."""
    return frozenset(name for pattern, names in REFUSED if re.search(pattern, model, re.IGNORECASE) for name in names)
