"""The way to a provider: which proxy, which certificates, and which variable is at fault when it cannot be used."""

from pathlib import Path

import pytest

from config.loader import ConfigError
from workers.base.provider import proxies
from workers.base.provider.errors import unreachable
from workers.base.provider.proxies import Proxy, client_options, faults, on_the_way, proxy_for

HOSTILE = {
    "ALL_PROXY": "socks://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "https_proxy": "socks://127.0.0.1:9",
    "SSL_CERT_FILE": "/none/ca.pem",
    "SSL_CERT_DIR": "/none/certs",
    "REQUESTS_CA_BUNDLE": "/none/ca.pem",
}
HERE = [
    "127.0.0.1:11434",
    "http://localhost:8000/v1",
    "http://[::1]:8000",
    "http://0.0.0.0:1",
    "http://127.9.9.9",
    ":1",
]
HERE += ["https://app.localhost", "http://host.docker.internal:11434", "http://LOCALHOST.:80"]


@pytest.mark.parametrize("url", HERE)
def test_this_machine_is_never_asked_through_a_proxy(url: str) -> None:
    assert proxy_for(url, HOSTILE) is None


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({"HTTPS_PROXY": "http://p:3128", "ALL_PROXY": "socks://s:1"}, Proxy("HTTPS_PROXY", "http://p:3128")),
        ({"https_proxy": "p:3128", "HTTPS_PROXY": "http://other"}, Proxy("https_proxy", "http://p:3128")),
        ({"https_proxy": "", "HTTPS_PROXY": "http://p"}, Proxy("HTTPS_PROXY", "http://p")),
        ({"ALL_PROXY": "http://u:p@p:1"}, Proxy("ALL_PROXY", "http://u:p@p:1")),
        ({"HTTP_PROXY": "http://p:3128"}, None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "x, api.example.org"}, None),
        ({"HTTPS_PROXY": "http://p", "no_proxy": ".example.org"}, None),
        ({"HTTPS_PROXY": "http://p", "no_proxy": "*.example.org:443"}, Proxy("HTTPS_PROXY", "http://p")),
        ({"HTTPS_PROXY": "http://p", "no_proxy": "*"}, None),
        ({"HTTPS_PROXY": "http://p", "no_proxy": "example.or"}, Proxy("HTTPS_PROXY", "http://p")),
        ({}, None),
    ],
)
def test_the_variable_for_the_scheme_counts_before_the_one_for_all(
    environ: dict[str, str], proxy: Proxy | None
) -> None:
    assert proxy_for("https://api.example.org/v1", environ) == proxy


def test_networks_are_excluded_by_their_numbers() -> None:
    environ = {"HTTP_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8,[fd00::]/8,192.168.1.1"}
    direct = [proxy_for(f"http://{host}:8000", environ) is None for host in ("10.1.2.3", "192.168.1.1", "192.168.1.2")]
    assert direct == [True, True, False]


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({"ALL_PROXY": "socks://s:1"}, "ALL_PROXY"),
        ({"all_proxy": "socks5h://s:1"}, "all_proxy"),
        ({"HTTPS_PROXY": "ftp://p:1"}, "HTTPS_PROXY"),
        ({"https_proxy": "http://p:secret"}, "https_proxy"),
        ({"SSL_CERT_FILE": "/none/ca.pem"}, "SSL_CERT_FILE"),
        ({"SSL_CERT_DIR": "/none"}, "SSL_CERT_DIR"),
        ({"SSL_CERT_FILE": __file__}, "SSL_CERT_FILE"),
    ],
)
def test_the_variable_at_fault_is_named(
    environ: dict[str, str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies, "SOCKS_PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=f"^{variable} ") as told:
        client_options("https://api.example.org", environ)
    assert "secret" not in str(told.value)


def test_every_variable_at_fault_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "SOCKS_PACKAGE", "no_such_package")
    named = [told.split()[0] for told in faults(HOSTILE)]
    assert named == ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "https_proxy", "ALL_PROXY"]
    assert faults({"HTTPS_PROXY": "http://p:1", "SSL_CERT_DIR": "/"}) == []


def test_another_program_s_certificates_are_used_or_left_alone(tmp_path: Path) -> None:
    assert client_options("https://h", {"REQUESTS_CA_BUNDLE": str(tmp_path / "gone")})["verify"] is True
    assert client_options("https://h", {"CURL_CA_BUNDLE": str(tmp_path)})["verify"] is not True


def test_an_error_says_what_was_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://u:secret@p:3128")
    told = unreachable("https://api.example.org", ConnectionError("refused")).message
    assert "NO_PROXY=api.example.org" in told
    assert "through the proxy of HTTPS_PROXY" in told
    assert "secret" not in told
    assert "SSL_CERT_FILE can name" in on_the_way("https://h", "[SSL: CERTIFICATE_VERIFY_FAILED]", {})
    assert on_the_way("http://127.0.0.1:1", "refused", HOSTILE) == ""
