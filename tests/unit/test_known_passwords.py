"""No role starts with a publicly known password where other machines could use it too."""

import pytest

from bullpen.known_passwords import refuse_known_password
from config.loader import ConfigError
from tests.cli import invoke

ELSEWHERE = "192.0.2.1"
"""An address that nobody has (RFC 5737)."""


@pytest.mark.parametrize("password", ["changeme", "change-me", "Password", "postgres", "manager", "s3cr3t"])
@pytest.mark.parametrize("where", [f"nats://{ELSEWHERE}:4222", "tls://nats:4222", "nats", "nats://[2001:db8::1]:4222"])
def test_a_known_password_is_refused_beyond_this_machine(where: str, password: str) -> None:
    with pytest.raises(ConfigError, match=r"NATS_PASSWORD: .*publicly known.*`bullpen init`") as told:
        refuse_known_password("NATS_PASSWORD", ["nats://127.0.0.1:4222", where], "u", password)
    assert password not in str(told.value).replace("password", "")


@pytest.mark.parametrize("where", ["nats://127.0.0.1:4222", "nats://localhost", "127.0.0.9:4222", "nats://[::1]:4222"])
def test_a_known_password_is_accepted_on_this_machine(where: str) -> None:
    refuse_known_password("NATS_PASSWORD", [where], "u", "changeme")


@pytest.mark.parametrize(
    "url", [f"postgresql://bullpen:changeme@{ELSEWHERE}/b", "nats://me:me@nats:4222", "nats://u:p%61ss@nats"]
)
def test_one_in_the_address_counts_and_so_does_the_users_own_name(url: str) -> None:
    with pytest.raises(ConfigError):
        refuse_known_password("DATABASE_URL", [url])


def test_a_password_of_ones_own_or_none_is_welcome_everywhere() -> None:
    refuse_known_password("NATS_PASSWORD", [f"nats://{ELSEWHERE}"], "u", "s4f1c0ffee")
    refuse_known_password("NATS_PASSWORD", [f"nats://{ELSEWHERE}"], None, None)
    refuse_known_password("DATABASE_URL", ["postgresql:///b?host=/tmp", "postgresql://u:s4f1c@db/b"])
    refuse_known_password("DATABASE_URL", ["postgresql://u:secret@%2Ftmp,[::1]:5432,localhost/b"])


def test_one_host_of_several_that_others_can_reach_is_enough() -> None:
    with pytest.raises(ConfigError, match=f"can reach {ELSEWHERE.partition(':')[0]}"):
        refuse_known_password("DATABASE_URL", [f"postgresql://u:secret@[::1]:5432,{ELSEWHERE}/b"])


@pytest.mark.parametrize("role", [["manager"], ["worker", "simulated"], ["telemetry"]])
def test_a_role_says_so_before_it_connects(role: list[str]) -> None:
    env = {"NATS_URL": f"nats://{ELSEWHERE}:4222", "NATS_USER": "u", "NATS_PASSWORD": "changeme"}
    told = invoke(*role, env={"DATABASE_URL": "postgresql://u@127.0.0.1/b", **env})
    assert told.code == 1
    assert "NATS_PASSWORD: this password is publicly known" in told.err


def test_the_books_password_counts_too() -> None:
    env = {"NATS_URL": "nats://127.0.0.1:1", "DATABASE_URL": f"postgresql://bullpen:bullpen@{ELSEWHERE}/bullpen"}
    told = invoke("telemetry", env=env)
    assert told.code == 1
    assert "DATABASE_URL: this password is publicly known" in told.err
