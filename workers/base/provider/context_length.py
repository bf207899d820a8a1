"""Whether a provider's error says that the prompt is too long for its model: by the error's codes first, then by its
words.

Words that several providers share are here. Words of one kind of server are in its backend's folder, in a table of the
same form: `COMMON.with_more(codes=…, wordings=…, counts=…)`.
"""

import re
from typing import NamedTuple

from workers.base.provider.error_body import ErrorBody

STATUSES = frozenset({400, 413, 422, None})
"""HTTP statuses of such errors; None: the error came inside a 200. A 429 that mentions tokens is about a limit per
minute.
"""


class TooLong(NamedTuple):
    codes: frozenset[str]
    """An error's code, type or status, in lower case."""
    wordings: tuple[str, ...]
    """Regular expressions that ignore case."""
    counts: tuple[str, ...]
    """Regular expressions whose group is the number of the prompt's tokens."""

    def with_more(
        self, *, codes: tuple[str, ...] = (), wordings: tuple[str, ...] = (), counts: tuple[str, ...] = ()
    ) -> "TooLong":
        return TooLong(self.codes | set(codes), (*self.wordings, *wordings), (*counts, *self.counts))

    def is_told(self, status: int | None, error: ErrorBody) -> bool:
        if status not in STATUSES:
            return False
        return bool(self.codes & error.codes) or _found(self.wordings, error.words) is not None

    def prompt_tokens(self, error: ErrorBody) -> int | None:
        """Tokens of the prompt as the provider counted them. None: the error does not say."""
        if error.prompt_tokens is not None:
            return error.prompt_tokens
        counted = _found(self.counts, error.words)
        digits = counted[1].replace(",", "") if counted else ""
        return int(digits) if digits and len(digits) < 10 else None


def _found(patterns: tuple[str, ...], text: str) -> re.Match[str] | None:
    return next((match for one in patterns if (match := re.search(one, text, re.IGNORECASE))), None)


COMMON = TooLong(
    codes=frozenset({"context_length_exceeded", "context_window_exceeded", "exceed_context_size_error"}),
    wordings=(
        r"maximum context length",
        r"context[ _](?:length|size|window|limit)",
        r"prompt is too long",
        r"input token count.*exceeds",
    ),
    counts=(r"(?:resulted in|requested|requested about|too long:|token count \(|(?:prompt|request) \()\s*([\d,]+)",),
)
