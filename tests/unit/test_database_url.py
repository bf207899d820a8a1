"""`DATABASE_URL` in every form that is met: what is read, what is ignored, what is named."""

from pathlib import Path

import pytest

from bullpen.embedded import clean_environment
from config.loader import ConfigError
from telemetry.database_url import read, set_in

LOGIN = "postgresql://u:p@h:5432/d"

READ = {
    "as we write it": ("postgresql://u:p@h:5432/d", "postgresql://u:p@h:5432/d?"),
    "the short scheme": ("postgres://u:p@h/d", "postgresql://u:p@h/d?"),
    "a framework's scheme": ("postgresql+asyncpg://u:p@h/d", "postgresql://u:p@h/d?"),
    "another framework's": ("POSTGRES+psycopg2://u:p@h/d", "postgresql://u:p@h/d?"),
    "Java's": ("jdbc:postgresql://h:5432/d?user=u&password=p", "postgresql://h:5432/d?password=p&user=u"),
    "copied with the command": ("psql 'postgresql://u:p@h/d?sslmode=require'", "postgresql://u:p@h/d?sslmode=require"),
    "copied with quotes": (' "postgresql://u:p@h/d" \n', "postgresql://u:p@h/d?"),
    "libpq's words": ("host=h port=5432 dbname=d user=u password='p w'", None),
    "an @ in the password": ("postgresql://u:p@ss@h/d", "postgresql://u:p%40ss@h/d?"),
    "a quoted password": ("postgresql://u:p%40%2F%23@h/d", "postgresql://u:p%40%2F%23@h/d?"),
    "several hosts": (
        "postgresql://u:p@h1:5432,h2:5433,[::1]:5434/d",
        "postgresql://u:p@h1:5432,h2:5433,[::1]:5434/d?",
    ),
    "a socket as the host": (
        "postgresql://u@%2Fvar%2Frun%2Fpostgresql/d",
        "postgresql://u@%2Fvar%2Frun%2Fpostgresql/d?",
    ),
    "a socket as a parameter": ("postgresql:///d?host=/tmp", "postgresql:///d?host=%2Ftmp"),
    "IPv6": ("postgresql://u:p@[::1]:5432/d", "postgresql://u:p@[::1]:5432/d?"),
    "an empty parameter": (f"{LOGIN}?sslrootcert=&application_name=", f"{LOGIN}?"),
    "the word of another driver": (f"{LOGIN}?ssl=true", f"{LOGIN}?sslmode=require"),
    "and its no": (f"{LOGIN}?ssl=false", f"{LOGIN}?sslmode=disable&sslnegotiation=postgres"),
    "no check of the certificate": (f"{LOGIN}?sslmode=no-verify", f"{LOGIN}?sslmode=require"),
    "the one that may write": (f"{LOGIN}?target_session_attrs=read-write", f"{LOGIN}?target_session_attrs=read-write"),
}


@pytest.mark.parametrize(("url", "dsn"), READ.values(), ids=READ)
def test_an_address_is_read_however_it_is_written(url: str, dsn: str | None) -> None:
    address = read(url, {})
    assert address.dsn == (dsn or "postgresql://?dbname=d&host=h&password=p%20w&port=5432&user=u")
    assert address.ignored == ()
    assert "p%40ss" not in repr(address)


IGNORED = [
    "channel_binding=require",
    "connect_timeout=10",
    "pgbouncer=true&connection_limit=1&pool_timeout=0",
    "keepalives=1&keepalives_idle=30",
    "gssencmode=prefer",
    "hostaddr=10.0.0.1",
    "statement_cache_size=0",
    "sslsni=1&load_balance_hosts=random&require_auth=scram-sha-256",
]


@pytest.mark.parametrize("query", IGNORED)
def test_what_nothing_depends_on_is_ignored_and_named(query: str) -> None:
    address = read(f"{LOGIN}?sslmode=require&{query}", {})
    assert address.dsn == f"{LOGIN}?sslmode=require"
    assert address.ignored == tuple(sorted(pair.partition("=")[0] for pair in query.split("&")))


def test_a_session_s_settings_are_told_to_it() -> None:
    address = read(f"{LOGIN}?schema=books&options=-c%20geqo%3Doff&application_name=mine&statement_timeout=5000", {})
    assert address.settings == {
        "application_name": "mine",
        "options": "-c geqo=off",
        "search_path": "books",
        "statement_timeout": "5000",
    }
    assert address.dsn == f"{LOGIN}?"


def test_the_machine_s_own_authorities_can_be_named() -> None:
    assert read(f"{LOGIN}?sslmode=verify-full&sslrootcert=system", {"PGSSLROOTCERT": "/none"}).trusts_system
    assert not read(f"{LOGIN}?sslmode=require", {}).trusts_system


NAMED = {
    "no such parameter": (f"{LOGIN}?sslmoed=require", "sslmoed"),
    "a mode that is none": (f"{LOGIN}?sslmode=verify", "sslmode"),
    "a session that is none": (f"{LOGIN}?target_session_attrs=leader", "target_session_attrs"),
    "a missing file": (f"{LOGIN}?sslrootcert=/none/ca.pem", "sslrootcert"),
    "another scheme": ("mysql://u:secret@h/d", "not the address of a Postgres"),
    "a slash in the password": ("postgresql://u:se/secret@h/d", "%2F"),
    "a question mark in it": ("postgresql://u:se?secret@h/d", "%3F"),
    "a hash in it": ("postgresql://u:se#secret@h/d", "%23"),
    "a port that is none": ("postgresql://u:secret@h:port/d", "port"),
    "a port beyond all": ("postgresql://u:secret@h:70000/d", "port"),
    "IPv6 without brackets": ("postgresql://u:secret@::1:5432/d", "brackets"),
    "nothing": ("", "not the address of a Postgres"),
    "half a quote": ("host=h password='secret", "quote"),
}


@pytest.mark.parametrize(("url", "word"), NAMED.values(), ids=NAMED)
def test_what_is_wrong_is_named_without_the_password(url: str, word: str) -> None:
    with pytest.raises(ConfigError, match=r"^DATABASE_URL") as told:
        read(url, {})
    assert word in str(told.value)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("variable", ["PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL"])
def test_a_variable_that_names_a_missing_file_is_named(variable: str, tmp_path: Path) -> None:
    gone = {variable: str(tmp_path / "gone.pem")}
    with pytest.raises(ConfigError, match=f"^{variable} names"):
        read(LOGIN, gone)
    assert read(f"{LOGIN}?sslmode=disable", gone)  # they do not concern an address without TLS


@pytest.mark.parametrize("variable", ["PGSSLMODE", "PGTARGETSESSIONATTRS"])
def test_a_variable_with_a_value_that_is_none_is_named(variable: str) -> None:
    wrong = {variable: "nonsense"}
    with pytest.raises(ConfigError, match=f"^{variable} should be one of"):
        read(LOGIN, wrong)
    assert read(f"{LOGIN}?sslmode=disable&target_session_attrs=any", wrong), "the address counts"


@pytest.mark.parametrize(
    ("parameter", "url", "environ", "where"),
    [
        ("sslmode", f"{LOGIN}?ssl=true", {"PGSSLMODE": "allow"}, "DATABASE_URL (sslmode)"),
        ("sslmode", LOGIN, {"PGSSLMODE": "require"}, "PGSSLMODE"),
        ("sslmode", LOGIN, {"PGSSLMODE": ""}, None),
        ("target_session_attrs", "host=h dbname=d", {"PGTARGETSESSIONATTRS": "standby"}, "PGTARGETSESSIONATTRS"),
        ("password", "postgres://u:secret@h/d", {}, "DATABASE_URL (password)"),
        ("password", "'host=h password=secret'", {"PGPASSWORD": "other"}, "DATABASE_URL (password)"),
        ("password", "postgres://u@h:5432/d", {"PGPASSWORD": "secret"}, "PGPASSWORD"),
        ("password", "postgres://u@h:5432/d", {}, None),
    ],
)
def test_where_a_parameter_is_set(parameter: str, url: str, environ: dict[str, str], where: str | None) -> None:
    assert set_in(parameter, url, environ) == where


def test_servers_of_our_own_see_no_variable_about_another_postgres() -> None:
    told = {"PGDATA": "/elsewhere", "PGPORT": "1", "PGOPTIONS": "-c x=y", "PATH": "/bin", "HOME": "/root"}
    assert clean_environment(told) == {"PATH": "/bin", "HOME": "/root"}
