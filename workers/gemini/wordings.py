"""How this API reports that a prompt is too long; its codes do not distinguish that from other mistakes."""

from workers.base.provider.context_length import COMMON

TOO_LONG = COMMON.with_more(
    wordings=(
        r"input (?:token count|context|content)\b.*(?:exceed|too (?:long|large)|only supports)",
        r"(?:prompt|request|content)s? (?:is|are) too (?:long|large)",
        r"exceeds? the maximum number of (?:input )?tokens",
    ),
    counts=(r"input token count (?:is |\()?([\d,]+)",),
)
