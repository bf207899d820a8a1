"""Every subject, from the AsyncAPI document."""

from bullpen.reference.markdown import table
from contracts.asyncapi import Models, subjects
from contracts.schemas import READ, WRITTEN

PUBLIC = {*READ, *WRITTEN}


def subject_table() -> str:
    """Who says what to whom, and what comes back."""
    rows = [
        (
            f"`{one.address}`",
            one.summary + (f" (queue group `{one.queue}`)" if one.queue else ""),
            ", ".join(one.says),
            ", ".join(one.hears),
            _messages(one.messages) or "–",
            _messages(one.replies) or ("yes" if one.replied else "–"),
        )
        for one in subjects()
    ]
    return table(("subject", "what for", "says", "hears", "message", "reply"), rows)


def _messages(models: Models) -> str:
    return ", ".join(
        f"[{model.__name__}](../schemas/{model.__name__}.json)" if model in PUBLIC else f"`{model.__name__}`"
        for model in models
    )
