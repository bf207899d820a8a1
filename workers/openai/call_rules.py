"""Which ids and names of tool calls the servers with this API accept, where they differ."""

import re

from workers.base.provider.call_forms import CallRule

OPENAI = CallRule()
MISTRAL = CallRule(ids="[A-Za-z0-9]{9}")
GOOGLE = CallRule(names="[A-Za-z_][A-Za-z0-9_.:-]{0,63}", keeps=frozenset({"extra_content"}))
RULES = (
    (re.compile(r"mi[sx]tral|codestral|devstral|magistral|pixtral|voxtral", re.IGNORECASE), MISTRAL),
    (re.compile(r"googleapis\.com", re.IGNORECASE), GOOGLE),
)
"""Rules by a part of the server's address or of the model's name; the templates of Mistral's models check the ids
too.
"""


def rule_of(address: str, model: str) -> CallRule:
    """The first rule that fits; else OpenAI's own."""
    return next((rule for pattern, rule in RULES if pattern.search(f"{address} {model}")), OPENAI)
