"""How this API, and proxies that repeat its words, report that a prompt is too long."""

from workers.base.provider.context_length import COMMON

TOO_LONG = COMMON.with_more(
    codes=("model_context_window_exceeded",),
    wordings=(
        r"input length and `?max_tokens`? exceed",
        r"(?:input|prompt) is too long",
        r"exceeds? the (?:model's )?(?:context|maximum number of tokens)",
        r"too many (?:input |total )?tokens",
    ),
    counts=(r"exceed context limit: ([\d,]+)", r"too long: ([\d,]+)"),
)
