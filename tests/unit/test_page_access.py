"""Who the live page shows what: by key, by cookie, and only to a page of ours."""

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from contracts import ApiKey, KeyRole
from gateway.api.access import Access, Visitor
from gateway.config import GatewayConfig
from gateway.dialects import Refused
from gateway.keys import KeyRing

HERE = {"Host": "127.0.0.1:4000"}
OURS = {**HERE, "Origin": "http://127.0.0.1:4000", "Sec-Fetch-Site": "same-origin", "x-bullpen-page": "1"}


class Ring:
    """Keys by their secrets."""

    def __init__(self, **roles: KeyRole) -> None:
        self._roles = roles
        self.is_known = True

    def exist(self) -> bool:
        return bool(self._roles)

    def find(self, secret: str) -> ApiKey | None:
        role = self._roles.get(secret)
        made = datetime.now(UTC)
        return None if role is None else ApiKey(key_id=f"key-{secret}", tenant="acme", created_at=made, role=role)


def access(ring: Ring, **config: Any) -> Access:
    told = GatewayConfig(**config)
    return Access(cast("KeyRing", ring), lambda: told)


KEYED = access(Ring(t="tenant", v="viewer", o="operator"))


def test_on_this_machine_everybody_is_an_operator_until_there_is_a_key() -> None:
    assert access(Ring()).admit(OURS, "acting") == Visitor("operator", None)
    assert access(Ring(x="viewer"), keys="off").admit(OURS, "acting").role == "operator"
    with pytest.raises(Refused, match="API key is needed"):
        KEYED.admit(OURS)


@pytest.mark.parametrize("config", [{"listen": "0.0.0.0:4000", "keys": "off"}, {"keys": "required"}])
def test_beyond_this_machine_nobody_looks_without_a_key_also_with_no_keys(config: Any) -> None:
    with pytest.raises(Refused) as refused:
        access(Ring(), **config).admit(OURS)
    assert refused.value.status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {**OURS, "Origin": "http://evil.example"},
        {**OURS, "Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-site"},
        {**HERE, "Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example:4000"},  # a name that points here
        {"Host": "evil.example:4000", "Origin": "http://evil.example:4000"},
    ],
    ids=["another site", "another port", "by its own word", "rebound", "rebound, with origin"],
)
def test_another_site_s_page_sees_nothing_without_a_key(headers: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        access(Ring()).admit(headers)
    assert refused.value.status == 403


def test_a_cookie_is_believed_of_our_page_alone_when_something_is_done() -> None:
    cookie = {"Cookie": "theme=dark; bullpen_key=o"}
    assert KEYED.admit({**OURS, **cookie}, "acting").role == "operator"
    assert KEYED.admit({**HERE, **cookie}).role == "operator"
    for headers in ({**HERE, **cookie}, {**OURS, **cookie, "Origin": "http://localhost:3000"}):
        with pytest.raises(Refused):
            KEYED.admit(headers, "acting")


def test_a_program_with_a_key_in_a_header_may_act() -> None:
    assert KEYED.admit({"Host": "any.example", "Authorization": "Bearer o"}, "acting").role == "operator"
    with pytest.raises(Refused, match="unknown"):
        KEYED.admit({"x-api-key": "guessed"})


def test_a_tenant_s_key_sees_its_tenant_and_a_viewer_s_everything() -> None:
    tenant, viewer, operator = (KEYED.admit({"x-api-key": secret}) for secret in "tvo")
    assert (tenant.tenant, viewer.tenant, operator.tenant) == ("acme", None, None)
    with pytest.raises(Refused, match="own tenant"):
        tenant.check_sees_all()
    for visitor in (tenant, viewer):
        with pytest.raises(Refused, match="may not do that"):
            visitor.check_may_act()
    operator.check_may_act()


def test_the_cookie_is_for_this_site_alone_and_no_script_reads_it() -> None:
    _, cookie = KEYED.sign_in(OURS, "v")
    assert cookie == "bullpen_key=v; Path=/; HttpOnly; SameSite=Strict"
    assert KEYED.sign_in({**OURS, "X-Forwarded-Proto": "https"}, "v")[1].endswith("; Secure")
    assert KEYED.sign_in({**OURS, "X-Forwarded-Proto": "HTTPS, http"}, "v")[1].endswith("; Secure")
    assert "Secure" not in KEYED.sign_in({**OURS, "X-Forwarded-Proto": "http, https"}, "v")[1]
    for headers in (HERE, {**OURS, "Origin": "http://evil.example"}):
        with pytest.raises(Refused):
            KEYED.sign_in(headers, "v")
