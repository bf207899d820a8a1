"""Finds keys and personal data in a text by their form, and replaces them. Best effort, never a promise.

Known forms of keys come from detect-secrets; telephone numbers and IBANs are checked by phonenumbers and python-stdnum
(the extra `redaction`); further patterns stand here. Names, addresses and anything else without a form of its own are
not found: use `hash` or `none` where they matter.

A caller controls the text. So every pattern is bounded and a text is searched in windows: `re` holds the interpreter
while it searches, and no request is served meanwhile.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

WINDOW, OVERLAP = 8192, 512
"""Characters of one window, and of the overlap of two. A key that is longer than the overlap may be cut at the edge."""

DETECTORS = (
    *("aws.AWSKeyDetector", "azure_storage_key.AzureStorageKeyDetector", "basic_auth.BasicAuthDetector"),
    *("discord.DiscordBotTokenDetector", "github_token.GitHubTokenDetector", "gitlab_token.GitLabTokenDetector"),
    *("mailchimp.MailchimpDetector", "pypi_token.PypiTokenDetector", "sendgrid.SendGridDetector"),
    *("slack.SlackDetector", "square_oauth.SquareOAuthDetector", "stripe.StripeDetector"),
    *("telegram_token.TelegramBotTokenDetector", "twilio.TwilioKeyDetector"),
)
"""The plugins of detect-secrets that know a form. Others guess (entropy, keywords), or take minutes for a hostile
text.
"""
SECRETS = (
    r"\b(?:sk|pk|rk|gsk|xai)[-_](?=[\w-]{0,80}\d)[\w-]{16,200}",  # as most providers write theirs
    r"\bAIza[\w-]{30,60}",
    r"(?i)\bbearer[ \t]{1,4}(?=\S{0,80}\d)[\w.~+/=-]{16,400}",
    r"\beyJ[\w-]{8,200}\.[\w-]{4,400}(?:\.[\w-]{0,400})?",  # JSON web tokens
    r"(?i)\baws_?secret_?(?:access_?)?key[\"']?\s{0,3}[=:]\s{0,3}[\"']?[\w/+]{40}={0,2}",
    r"\b(?:github_pat|npm|hf|glpat)[_-][A-Za-z0-9_]{20,100}",
    r"\bS[ACNOUX][A-Z2-7]{56}\b",  # NATS
)
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
EMAIL = re.compile(r"(?<![\w.+%-])(?!git@)[\w.+%-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}\b")
PHONE = re.compile(
    r"(?<![\w+])(?:\+|00)\d[\d ()./-]{6,22}\d(?!\d)|(?<![\w.+-])\(?\d{3}\)?[ .-] ?\d{3}[ .-]\d{4}(?![\w-])"
)
CARD = re.compile(r"(?<![\w.+-])[2-6]\d{3}(?:[ -]?\d{2,6}){2,4}(?![\w-]|\.\d)")
ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|35\d{14}"
)
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
SHORTEST_IBAN = 15

Span = tuple[int, int, str]
"""From, to, and what it is."""


class RedactionMissing(Exception):
    """redaction is not installed: pip install 'bullpen-mesh[redaction]', or keep `content: hash` or `none`."""

    def __str__(self) -> str:
        return str(self.__doc__)


class Redactor:
    """Redacts a text when called. Making it raises `RedactionMissing` without its libraries."""

    def __init__(self) -> None:
        try:
            self._secrets = (*map(re.compile, SECRETS), *_known_forms())
            self._phones = import_module("phonenumbers")
            self._luhn = import_module("stdnum.luhn")
            self._iban = import_module("stdnum.iban")
        except ImportError:
            raise RedactionMissing from None

    def __call__(self, text: str) -> str:
        """The text with `[secret]`, `[e-mail]`, `[phone]`, `[card]` or `[iban]` in place of each find."""
        found = [*_private_keys(text)]
        for start in range(0, max(1, len(text) - OVERLAP), WINDOW - OVERLAP):
            window = text[start : start + WINDOW]
            found += [(start + begin, start + end, what) for begin, end, what in self._in(window)]
        return _crossed_out(text, found)

    def _in(self, window: str) -> Iterator[Span]:
        for pattern in self._secrets:
            yield from _spans(pattern, window, "secret")
        yield from _spans(EMAIL, window, "e-mail")
        yield from _spans(IBAN, window, "iban", self._iban_within)
        yield from _spans(CARD, window, "card", self._card_within)
        yield from _spans(PHONE, window, "phone", self._phone_within)

    def _card_within(self, written: str) -> int:
        digits = re.sub(r"[ -]", "", written)
        return len(written) if ISSUER.fullmatch(digits) and self._luhn.is_valid(digits) else 0

    def _iban_within(self, written: str) -> int:
        """The length of a valid IBAN at the start; 0: there is none. A word in capitals may follow it."""
        for end in range(len(written), SHORTEST_IBAN - 1, -1):
            if written[end - 1] != " " and self._iban.is_valid(written[:end]):
                return end
        return 0

    def _phone_within(self, written: str) -> int:
        international = f"+{written[2:]}" if written.startswith("00") else written
        try:
            number = self._phones.parse(international, None if international.startswith("+") else "US")
        except self._phones.NumberParseException:
            return 0
        return len(written) if self._phones.is_valid_number(number) else 0


def _known_forms() -> Iterator[re.Pattern[str]]:
    for name in DETECTORS:
        module, _, detector = name.partition(".")
        found: Any = getattr(import_module(f"detect_secrets.plugins.{module}"), detector)
        yield from found.denylist


def _spans(pattern: re.Pattern[str], text: str, what: str, within: Callable[[str], int] = len) -> Iterator[Span]:
    """Where the pattern matches. `within`: the length of the valid part of a match; 0: the match only looks valid."""
    for match in pattern.finditer(text):
        if length := within(match[0]):
            yield match.start(), match.start() + length, what


def _private_keys(text: str) -> Iterator[Span]:
    """Whole private keys; one without an end reaches to the end of the text."""
    at = 0
    while begin := PRIVATE_KEY.search(text, at):
        end = KEY_ENDS.search(text, begin.end())
        at = end.end() if end else len(text)
        yield begin.start(), at, "secret"


def _crossed_out(text: str, found: Iterable[Span]) -> str:
    """The text with its finds replaced. Of overlapping finds the one that begins first gives the name."""
    pieces: list[str] = []
    done = 0
    for begin, end, what in sorted(found, key=lambda span: (span[0], -span[1])):
        if begin >= done:
            pieces += [text[done:begin], f"[{what}]"]
        done = max(done, end)
    return "".join((*pieces, text[done:]))
