"""`DATABASE_URL` as hosters, frameworks and `psql` write it.

A parameter of libpq is passed on, or ignored with a line in the log; so are hints for the pools of other clients. Any
other parameter is an error that names it. No error shows a part of the password.
"""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from config.loader import ConfigError

NAME = "DATABASE_URL"
EXAMPLE = "postgresql://user:password@host:5432/database"

_UNDERSTOOD = (
    "dbname gsslib host krbsrvname passfile password port ssl_max_protocol_version "
    "ssl_min_protocol_version sslcert sslcrl sslkey sslmode sslnegotiation sslpassword sslrootcert "
    "target_session_attrs user"
)
UNDERSTOOD = frozenset(_UNDERSTOOD.split())
"""Parameters that the driver takes unchanged."""
_SETTINGS = "application_name idle_in_transaction_session_timeout lock_timeout options search_path statement_timeout"
SETTINGS = frozenset(_SETTINGS.split())
"""Parameters that become settings of the session."""
OTHER_NAMES = {
    "currentSchema": "search_path",
    "database": "dbname",
    "schema": "search_path",
    "sslaccept": "sslmode",
    "ssl": "sslmode",
    "username": "user",
}
OTHER_VALUES = {
    "sslmode": {
        **dict.fromkeys(("true", "1", "on", "yes", "no-verify", "accept_invalid_certs"), "require"),
        **dict.fromkeys(("false", "0", "off", "no"), "disable"),
        "strict": "verify-full",
    }
}
_IGNORED = (
    "async_fallback channel_binding client_encoding command_timeout connect_timeout connection_limit "
    "fallback_application_name gssdelegation gssencmode hostaddr keepalives keepalives_count "
    "keepalives_idle keepalives_interval load_balance_hosts max_overflow max_protocol_version "
    "min_protocol_version pgbouncer pool_max_conns pool_mode pool_size pool_timeout "
    "prepared_statement_cache_size prepareThreshold replication require_auth requirepeer requiressl "
    "scram_client_key scram_server_key single_use_connections socket_timeout sslcertmode sslcompression "
    "sslcrldir sslkeylogfile sslsni statement_cache_size supa tcp_user_timeout uselibpqcompat"
)
IGNORED = frozenset(_IGNORED.split())
"""Parameters of libpq, or of other clients, that have no effect here."""
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRIBUTES = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")
CHOICES = {"sslmode": SSL_MODES, "target_session_attrs": SESSION_ATTRIBUTES}
VARIABLES = {"sslmode": "PGSSLMODE", "target_session_attrs": "PGTARGETSESSIONATTRS", "password": "PGPASSWORD"}
"""The variables that count where the address says nothing."""
FILES = {"sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslcrl": "PGSSLCRL"}
"""Parameters that name files, and the variables that count when the address has no such parameter."""
SYSTEM = "system"
"""The `sslrootcert` that stands for the certificate authorities which this machine trusts."""

_SCHEME = re.compile(r"(?:jdbc:)?postgres(?:ql)?(?:\+[a-z0-9_]+)?://", re.IGNORECASE)
_WORDS = re.compile(r"\s*[a-z_]+\s*=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    dsn: str = field(repr=False)
    """The address for the driver; it contains the password."""
    settings: Mapping[str, str]
    """Settings of the session."""
    trusts_system: bool
    """Whether the server's certificate is checked against the certificate authorities of this machine."""
    ignored: tuple[str, ...]
    """Parameters that have no effect here."""


def read(url: str, environ: Mapping[str, str] | None = None) -> DatabaseAddress:
    """Reads an address. Raises `ConfigError`, which names the parameter or the variable at fault."""
    written = _unwrapped(url)
    place, told = _of_words(written) if _WORDS.match(written) else _of_url(written)
    known = _understood(told)
    _check_choices(known, os.environ if environ is None else environ)
    ignored = tuple(sorted(told.keys() & IGNORED))
    trusts_system = known.get("sslrootcert") == SYSTEM
    if trusts_system:
        del known["sslrootcert"]
        known.pop("sslmode", None)
    else:
        _check_files(known, os.environ if environ is None else environ)
    if known.get("sslmode") == "disable":
        known.setdefault("sslnegotiation", "postgres")
    settings = {name: known.pop(name) for name in sorted(SETTINGS & known.keys())}
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(known.items()))
    return DatabaseAddress(f"postgresql://{place}?{query}", settings, trusts_system, ignored)


def set_in(parameter: str, url: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Where this parameter of `VARIABLES` is set, as words for an error; None: nowhere. `url`: one that can be read."""
    written = _unwrapped(url)
    place, told = _of_words(written) if _WORDS.match(written) else _of_url(written)
    given = {OTHER_NAMES.get(name, name) for name, value in told.items() if value}
    if parameter in given or (parameter == "password" and ":" in place.rpartition("@")[0]):
        return f"{NAME} ({parameter})"
    variable = VARIABLES[parameter]
    return variable if (os.environ if environ is None else environ).get(variable) else None


def _unwrapped(url: str) -> str:
    """The address without what is copied along with it: `psql`, quotes, blanks."""
    bare = url.strip().removeprefix("psql ").strip()
    return bare[1:-1] if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\"" else bare


def _of_url(url: str) -> tuple[str, dict[str, str]]:
    """User, password, hosts and database, as a URL has them; and the parameters."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise _no_address(f"write {EXAMPLE}")
    before, _, query = url[scheme.end() :].partition("?")
    authority, _, database = before.partition("/")
    if "@" in database or "@" in query.partition("&")[0] or "#" in before or any(blank in url for blank in " \t\r\n"):
        raise _no_address("write special characters of the password as %XX (/ is %2F, # is %23, ? is %3F)")
    login, at, hosts = authority.rpartition("@")
    user, colon, password = login.partition(":")
    _check_hosts(hosts)
    login = f"{_requoted(user)}{colon}{_requoted(password)}{at}"
    return f"{login}{hosts}/{database}", _parameters(query)


def _of_words(text: str) -> tuple[str, dict[str, str]]:
    """`host=… port=… dbname=…`, the other form that libpq knows."""
    try:
        pairs = [word.partition("=") for word in shlex.split(re.sub(r"\s*=\s*", "=", text))]
    except ValueError:
        raise _no_address("it has a quote without its end") from None
    return "", {name: value for name, _, value in pairs}


def _parameters(query: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _understood(told: Mapping[str, str]) -> dict[str, str]:
    known: dict[str, str] = {}
    for name, value in told.items():
        right = OTHER_NAMES.get(name, name)
        if name in IGNORED:
            continue
        if right not in UNDERSTOOD | SETTINGS:
            raise _wrong(f"there is no parameter {name[:40]!r}: take it out")
        right_value = OTHER_VALUES.get(right, {}).get(value.lower(), value)
        if right in CHOICES and right_value not in CHOICES[right]:
            raise _wrong(f"{name} should be one of {', '.join(CHOICES[right])}")
        if right_value:
            known[right] = right_value
    return known


def _check_hosts(hosts: str) -> None:
    for host in hosts.split(","):
        name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        if colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
            raise _no_address("the port should be a number from 1 to 65535")
        if colon and ":" in name and not (name.startswith("[") and name.endswith("]")):
            raise _no_address("an IPv6 address stands in brackets: [::1]:5432")


def _check_choices(known: Mapping[str, str], environ: Mapping[str, str]) -> None:
    for parameter, choices in CHOICES.items():
        variable = VARIABLES[parameter]
        if parameter not in known and environ.get(variable, choices[0]) not in choices:
            raise ConfigError(f"{variable} should be one of {', '.join(choices)}: correct it, or take it out")


def _check_files(known: Mapping[str, str], environ: Mapping[str, str]) -> None:
    if known.get("sslmode") == "disable":
        return
    for parameter, variable in FILES.items():
        where = f"{NAME}: {parameter}" if parameter in known else variable
        path = known.get(parameter) or environ.get(variable)
        if path and not os.access(Path(path).expanduser(), os.R_OK):
            raise ConfigError(f"{where} names {path}, which cannot be read: correct it, or take it out")


def _requoted(part: str) -> str:
    """A part of the address, quoted once, however it was written: drivers stop at the first @."""
    return quote(unquote(part), safe="")


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"{NAME}: {what}")


def _no_address(why: str) -> ConfigError:
    return ConfigError(f"{NAME} is not the address of a Postgres: {why}")
