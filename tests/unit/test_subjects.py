"""Names as subjects, headers and ids: none is mixed up with another."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import subjects as s

ALIKE = ["user/1", "user.1", "user_1", "user 1", "user%2F1", "", "_", "%", "é", "e\u0301", "a.>", "a.*", "\ud800"]


@pytest.mark.parametrize("make", [s.result, s.metrics_model, s.metrics_worker])
def test_names_that_look_alike_have_a_subject_each(make: Callable[[str], str]) -> None:
    assert len({make(name) for name in ALIKE}) == len(ALIKE)


@pytest.mark.parametrize("name", ["t1", "0190-ab_C", "job-5", "x" * 128])
def test_a_plain_name_stays_as_it_is(name: str) -> None:
    assert s.result(name) == f"result.{name}"
    assert s.header_value(name) == s.name_from(name[:64]) + name[64:] == name


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_two_names_share_a_token_a_header_or_an_id(one: str, other: str) -> None:
    for made in (s.token, s.header_value, s.name_from):
        assert (made(one) == made(other)) == (one == other)
    assert s.text_of(s.token(one)) == s.text_of(s.header_value(one)) == one
    assert set(s.token(one)).isdisjoint(" .*>\r\n\t")
    assert s.is_name(s.name_from(one))


def test_an_id_made_of_a_long_host_still_tells_processes_apart() -> None:
    host = f"manager-{'h' * 63}"
    assert s.name_from(f"{host}-17") != s.name_from(f"{host}-18")
