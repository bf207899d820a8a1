"""What commands show of the books, and of prices."""

import re

import pytest

from tests.cli import bullpen, invoke

pytestmark = pytest.mark.usefixtures("patience")


async def test_responses_come_from_the_books(some_books: str) -> None:
    plain, recent, failed, limited, by_model, by_tenant = (
        await bullpen("responses", env={"DATABASE_URL": some_books}),
        await bullpen("responses", "--since", "1h", "--json", env={"DATABASE_URL": some_books}),
        await bullpen("responses", "--failed", "--json", env={"DATABASE_URL": some_books}),
        await bullpen("responses", "--limit", "1", env={"DATABASE_URL": some_books}),
        await bullpen("responses", "--model", "old", "--json", env={"DATABASE_URL": some_books}),
        await bullpen("responses", "--tenant", "acme", "--model", "m", "--json", env={"DATABASE_URL": some_books}),
    )
    lines = plain.out.splitlines()
    assert len(lines) == 5
    assert "Where is it? → overloaded: all full" in lines[1]
    assert re.search(r"\b[1-9]m ago", lines[2])
    assert "$0.0012" in lines[2]
    assert "Where is it? → Paris" in lines[2]
    assert len(recent.json()) == 3
    assert [row["cost_usd"] for row in recent.json()] == [0.0, 0.0012, None]
    assert [row["error_code"] for row in failed.json()] == ["overloaded"]
    assert len(limited.out.splitlines()) == 2
    assert [row["model_id"] for row in by_model.json()] == ["old"]
    assert [row["cost_usd"] for row in by_tenant.json()] == [None]


async def test_cost_is_added_up_and_the_unknown_is_told(some_books: str) -> None:
    by_model, by_tenant, by_day = (
        await bullpen("cost", env={"DATABASE_URL": some_books}),
        await bullpen("cost", "--by", "tenant", "--json", env={"DATABASE_URL": some_books}),
        await bullpen("cost", "--by", "day", "--since", "1d", "--json", env={"DATABASE_URL": some_books}),
    )
    assert "MODEL" in by_model.out
    assert "$0.0012" in by_model.out
    assert by_model.out.splitlines()[1].endswith("  1 request")
    assert by_model.out.splitlines()[-1].split() == ["in", "all", "0", "$0.0012"]
    tenants = {row["key"]: (row["requests"], row["cost_usd"], row["unpriced"]) for row in by_tenant.json()}
    assert tenants == {"acme": (1, None, 1), "": (3, 0.0024, 0)}
    assert sum(row["requests"] for row in by_day.json()) == 3


async def test_books_that_are_off_or_away_exit_3_with_what_to_do() -> None:
    off, away = (
        await bullpen("responses"),
        await bullpen("cost", env={"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}),
    )
    assert (off.code, away.code) == (3, 3)
    assert "set DATABASE_URL" in off.err
    assert "cannot be read" in away.err
    assert "`bullpen doctor`" in away.err
    assert "Traceback" not in away.err


def test_our_own_configs_agree_with_the_table() -> None:
    told = invoke("prices", "--check", "--json")
    assert told.code == 0, told.err
    assert {row["origin"] for row in told.json()["prices"] if row["where"] != "simulated"} == {"config"}
