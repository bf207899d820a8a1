"""Which pages of other sites may ask, and which may read the answer."""

import pytest

from gateway.cors import check_origin, preflight, readable
from gateway.dialects import Refused

SITE = "https://chat.example.com"


@pytest.mark.parametrize(
    ("origins", "origin", "may_ask", "may_read"),
    [
        ((), None, True, False),
        ((), SITE, False, False),
        ((), "http://localhost:3000", True, False),
        ((), "http://[::1]:3000", True, False),
        ((), "http://[::1", False, False),
        ((), "null", False, False),
        ((SITE,), SITE, True, True),
        ((SITE,), "https://evil.example", False, False),
        ((SITE,), "https://chat.example.com.evil.example", False, False),
        (("http://localhost:3000",), "http://localhost:3000", True, True),
        (("*",), "https://anybody.example", True, True),
    ],
)
def test_who_may_ask_and_read(origins: tuple[str, ...], origin: str | None, may_ask: bool, may_read: bool) -> None:
    headers = {"Origin": origin} if origin else {}
    try:
        check_origin(origins, headers)
    except Refused as refused:
        assert (refused.status, may_ask) == (403, False)
    else:
        assert may_ask
    assert bool(readable(origins, headers)) == bool(preflight(origins, headers)) == may_read


def test_a_browser_that_asks_first_is_told_what_a_page_may_send() -> None:
    asked = {"Origin": SITE, "Access-Control-Request-Headers": "authorization, x-mine"}
    told = preflight((SITE,), {**asked, "Access-Control-Request-Private-Network": "true"})
    assert told == {
        "Access-Control-Allow-Origin": SITE,
        "Access-Control-Expose-Headers": "*",
        "Vary": "Origin",
        "Access-Control-Allow-Methods": "GET, HEAD, POST",
        "Access-Control-Max-Age": "600",
        "Access-Control-Allow-Headers": "authorization, x-mine",
        "Access-Control-Allow-Private-Network": "true",
    }
