"""`NATS_URL`: every form of a server's address, and the login that may stand in it."""

import pytest

from bus import BusSettings, BusUnreachable
from bus.server_address import Login, read, split

READ = {
    "nats://h:4222": ("nats://h:4222", None),
    "h": ("nats://h:4222", None),
    "h:": ("nats://h:4222", None),
    "NATS://h:4222/": ("nats://h:4222", None),
    "tls://h": ("tls://h:4222", None),
    "wss://u:p@h/nats": ("wss://h/nats", Login("u", "p")),
    "[::1]": ("nats://[::1]:4222", None),
    "nats://[2001:db8::1]:4223": ("nats://[2001:db8::1]:4223", None),
    "nats://u:p%40s%2Fs%25@h": ("nats://h:4222", Login("u", "p@s/s%")),
    "nats://a%3Ab:p:q@h": ("nats://h:4222", Login("a:b", "p:q")),
    "nats://u:p@ss@h": ("nats://h:4222", Login("u", "p@ss")),
    "nats://u:p#s?s/@h": ("nats://h:4222", Login("u", "p#s?s/")),
    "nats://u:@h": ("nats://h:4222", Login("u", "")),
    "nats://s3%2Fcr%C3%A9t@h": ("nats://h:4222", Login(token="s3/crét")),
}


@pytest.mark.parametrize("url", READ)
def test_an_address_is_read_with_its_login_decoded(url: str) -> None:
    address = read(url)
    assert (address.url, address.login) == READ[url]
    assert "s3" not in repr(address)


@pytest.mark.parametrize(
    "url",
    ["::1:4222", "nats://h:port", "nats://h:0", "nats://h:70000", "http://h", "nats://", "nats://a b", "u:secret@"],
)
def test_what_is_no_address_is_refused_with_the_cure(url: str) -> None:
    with pytest.raises(BusUnreachable, match=r"NATS_URL: .* nats://host:4222") as told:
        BusSettings(servers=(url,)).addresses()
    assert told.value.hopeless


def test_no_piece_of_a_password_with_a_comma_is_shown() -> None:
    with pytest.raises(BusUnreachable, match="%XX") as told:
        BusSettings(servers=split("nats://u:secret,word@h:4222")).addresses()
    assert "secret" not in str(told.value)


def test_a_list_is_split_however_it_was_pasted() -> None:
    assert split(" 'nats://u:p@h1:4222, h2,,[::1]:4223 '\n") == ("nats://u:p@h1:4222", "h2", "[::1]:4223")


def test_each_server_hears_its_own_login_and_the_rest_the_first_one() -> None:
    settings = BusSettings(servers=("nats://a:1@h1", "h2", "nats://b:2@h3"))
    logins = [settings.login_at(place) for place in ("h1:4222", "h2:4222", "h3:4222", "10.0.0.9:4222")]
    assert logins == [Login("a", "1"), Login("a", "1"), Login("b", "2"), Login("a", "1")]


def test_the_settings_own_login_comes_first() -> None:
    settings = BusSettings(servers=("nats://a:1@h1",), user="me", password="mine")
    assert settings.login_at("h1:4222") == Login("me", "mine")
    assert BusSettings().login_at("h:4222") == Login()
