"""How Ollama and its engines report that a prompt is too long; often as an error of the server."""

from workers.base.provider.context_length import COMMON

TOO_LONG = COMMON.with_more(
    wordings=(
        r"prompt (?:is )?too (?:long|large)",
        r"input (?:length )?(?:exceeds|is too (?:long|large))",
        r"exceed(?:s|ed)? (?:the |max(?:imum)? |available |model's )*context",
        r"(?:longer|larger) than the (?:context|model)",
    ),
    counts=(r"prompt (?:has|of|with) ([\d,]+) tokens", r"(?:request|prompt|input) \(([\d,]+) tokens"),
)
