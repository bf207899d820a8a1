"""The way to a provider: the proxy and the certificate authorities that the environment names.

Every backend's HTTP client is made with `client_options` and reads no environment of its own. Requests to this machine
never go through a proxy. A variable that cannot be used is an error that names it, only for the backends that need it.
"""

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from config.loader import ConfigError

SCHEMES = {
    "http": "http",
    "https": "https",
    "socks": "socks5",
    "socks5": "socks5",
    "socks5h": "socks5h",
}
"""Schemes of a proxy as desktops and tools write them, and as HTTP clients know them."""
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
OTHERS_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables of other programs; they count only where `CERTIFICATES` are not set."""
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
THIS_MACHINE = ("localhost", "host.docker.internal", "gateway.docker.internal", "host.containers.internal")
SOCKS_PACKAGE = "socksio"


@dataclass(frozen=True, slots=True)
class Proxy:
    variable: str
    url: str


def client_options(url: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Arguments of an HTTP client (httpx's, or its successor's) for a provider. Raises `ConfigError`."""
    environ = os.environ if environ is None else environ
    proxy = proxy_for(url, environ)
    return {
        "proxy": proxy.url if proxy else None,
        "verify": _authorities(environ) if urlsplit(url).scheme == "https" else True,
        "trust_env": False,
    }


@contextmanager
def unread() -> Iterator[None]:
    """Hides these variables from SDKs, which read them for HTTP clients that Bullpen does not use."""
    names = [*CERTIFICATES, *(spelled for name in PROXIES for spelled in (name, name.upper()))]
    hidden = {name: value for name in names if (value := os.environ.pop(name, None)) is not None}
    try:
        yield
    finally:
        os.environ.update(hidden)


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for `url`; None: a direct connection. Raises `ConfigError` naming the variable."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    host = (parts.hostname or "").rstrip(".")
    if is_here(host) or _excluded(host, parts.port, _value("no_proxy", environ)[1]):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        variable, value = _value(name, environ)
        if value:
            return Proxy(variable, _usable(variable, value))
    return None


def is_here(host: str) -> bool:
    """Whether a host name or address is this machine."""
    try:
        address = ip_address(host)
    except ValueError:
        return not host or host.lower() in THIS_MACHINE or host.lower().endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def on_the_way(url: str, error: str, environ: Mapping[str, str] | None = None) -> str:
    """The possible reason why a provider is not reached, as a half-sentence; empty when there is none."""
    environ = os.environ if environ is None else environ
    hints = []
    try:
        proxy = proxy_for(url, environ)
    except ConfigError as wrong:
        return f"; {wrong}"
    if proxy is not None:
        hints.append(f"it is asked through the proxy of {proxy.variable}; NO_PROXY={_host(url)} asks it directly")
    if "CERTIFICATE_VERIFY_FAILED" in error or "certificate verify failed" in error:
        used = [name for name in (*CERTIFICATES, *OTHERS_CERTIFICATES) if environ.get(name)]
        named = f"{' and '.join(used)} may be out of date" if used else "SSL_CERT_FILE can name its authority"
        hints.append(f"its certificate is not trusted: {named}")
    return "".join(f"; {hint}" for hint in hints)


def faults(environ: Mapping[str, str] | None = None) -> list[str]:
    """Every proxy and certificate variable that cannot be used, with the reason."""
    environ = os.environ if environ is None else environ
    wrong = [_unreadable(name, environ) for name in (*CERTIFICATES, *OTHERS_CERTIFICATES)]
    found = [told for told in wrong if told]
    for name in PROXIES:
        variable, value = _value(name, environ)
        try:
            if value:
                _usable(variable, value)
        except ConfigError as error:
            found.append(str(error))
    return found


def _authorities(environ: Mapping[str, str]) -> ssl.SSLContext | bool:
    for name in CERTIFICATES:
        if told := _unreadable(name, environ):
            raise ConfigError(told)
    file, folder = (environ.get(name) or None for name in CERTIFICATES)
    if file is None and folder is None:
        usable = [name for name in OTHERS_CERTIFICATES if environ.get(name) and not _unreadable(name, environ)]
        file = environ[usable[0]] if usable else None
    if file is None and folder is None:
        return True
    if file is not None and Path(file).is_dir():
        file, folder = None, file
    try:
        return ssl.create_default_context(cafile=file, capath=folder)
    except OSError as error:
        name = next(name for name in (*CERTIFICATES, *OTHERS_CERTIFICATES) if environ.get(name))
        raise ConfigError(
            f"{name} names {file or folder}, which has no certificates ({error.strerror or error})"
        ) from None


def _unreadable(name: str, environ: Mapping[str, str]) -> str:
    path = environ.get(name)
    if not path or os.access(path, os.R_OK):
        return ""
    return f"{name} names {path}, which cannot be read: correct it, or unset it"


def _usable(variable: str, value: str) -> str:
    """The proxy's address in the form of HTTP clients. Raises `ConfigError`, which shows no password."""
    written = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(written)
        scheme = SCHEMES.get(parts.scheme.lower())
        fits = bool(parts.hostname) and parts.port != 0
    except ValueError:
        scheme, fits = None, False
    if scheme is None or not fits:
        raise ConfigError(f"{variable} is not the address of a proxy: write http://host:port, or unset it")
    if scheme.startswith("socks") and find_spec(SOCKS_PACKAGE) is None:
        raise ConfigError(
            f"{variable} names a SOCKS proxy, which takes a package: pip install {SOCKS_PACKAGE}; or unset it, set "
            "HTTPS_PROXY to an HTTP proxy, or name the provider's host in NO_PROXY"
        )
    return f"{scheme}://{written.partition('://')[2]}"


def _value(name: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """The variable that counts (lower case first) and its value; an empty variable counts as not set."""
    small = environ.get(name, "").strip()
    return (name, small) if small else (name.upper(), environ.get(name.upper(), "").strip())


def _excluded(host: str, port: int | None, listed: str) -> bool:
    return any(_matches(host.lower(), port, entry) for entry in listed.lower().replace(" ", ",").split(",") if entry)


def _matches(host: str, port: int | None, entry: str) -> bool:
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit():
        return port == int(number) and _matches(host, port, name.strip("[]"))
    bare = entry.removeprefix("*").removeprefix(".")
    return host == bare or host.endswith(f".{bare}")


def _host(url: str) -> str:
    return urlsplit(url if "://" in url else f"http://{url}").hostname or url
