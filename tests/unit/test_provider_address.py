"""A provider's address may have a password in it, which is for the provider alone."""

import pytest

from config.loader import ConfigError
from workers.base.provider.connection import address, place


def test_an_unusable_address_is_shown_without_its_password() -> None:
    with pytest.raises(ConfigError, match=r"'host/v1' is not the address of a server") as told:
        address("SOME_URL", "ftp://user:planted@host/v1")
    assert "planted" not in str(told.value)


def test_an_address_that_serves_is_shown_without_it_too() -> None:
    url = "https://user:planted@host:8000/v1"
    assert address("SOME_URL", url) == url
    assert place(url) == "https://host:8000"
