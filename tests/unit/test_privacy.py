"""What the books keep of people's words in each mode."""

import sys
from typing import Any

import pytest
import structlog

from bullpen.content_key import content_key
from config.loader import ConfigError
from contracts import AttemptRecord, ContentMode, ErrorCode, FeedbackRecord, ResponseRecord, parse_request
from contracts.headers import NO_STORE
from contracts.privacy import as_digests, digest, heeding, stricter, without_words
from outbox import privacy_filter as discretion
from outbox import redaction
from outbox.privacy_filter import PrivacyFilter
from outbox.redaction import Redactor
from tests.books import attempt, feedback, response

CANARY = "canary-3f9a"
KEY = b"k"
SECRET = "sk-proj-abc123DEF456ghi789jkl0"

SECRETS = {
    "OpenAI": SECRET,
    "Anthropic": "sk-ant-api03-AbCdEf1234567890-AbCdEf1234567890",
    "Google": "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "bearer token": "Bearer abcdef.1234567890-ABCDEF",
    "AWS id": "AKIAIOSFODNN7EXAMPLE",
    "AWS secret": "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w",
    "GitHub": f"ghp_{'a1' * 18}",
    "Slack": "xoxb-123456789012-123456789012-abcdefghijklmnopqrstuvwx",
    "Stripe": f"sk_live_{'4eC39HqLyjWDarjtT1zdp7dc'}",
    "NATS": f"SU{'IBDPBAUTWCWBKIO6' * 3}XHQNK5FW",
}
PERSONAL = {
    "e-mail": ["jane.doe+news@example.co.uk", "a@b.io"],
    "phone": ["+49 30 901820", "+1 415-555-2671", "(415) 555-2671", "0049 30 901820"],
    "card": ["4111 1111 1111 1111", "5555555555554444", "3782-822463-10005"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
}
ORDINARY = """Meet at 12:45 on 2026-11-23; version 1.2.3.4 listens on 127.0.0.1:4222, order 1234567890123456.
The uuid is 018f3c2e-7b1a-7c3d-9e2f-123456789abc, pi is 3.14159265358979, now is 1700000000 or 2026112345.
Use scikit-learn, sk-learn-contrib-is-not-a-key, a bearer authentication-mechanism, or git@github.com:bullpen/bullpen.
    @dataclass
    def total(self, prices: list[Decimal], *, tax=Decimal("0.19")) -> Decimal:
        token = get_token(key="user") or os.environ["API_KEY"]
        return sum(x ** 2 for x in prices) + 0x41111111 - 1e-12 % 255  # 4111 1111 1111 1112 is no card
    SELECT a.b, count(*) FROM t WHERE ts > '2026-01-01T00:00:00Z' AND sha = 'd670460b4b4aece5915caf5c68d12f560a9fe3e4'
MODEL GPT 4 COSTS EUR 20 IN DE 89. Call 911, room 415-555, +1 from me, -40 C, 10 000 000 000 stars."""


def words(**changes: Any) -> ResponseRecord:
    """An answer that has the canary wherever a caller or a provider can put one."""
    told = {
        "prompt": f"prompt {CANARY}",
        "output": f"output {CANARY}",
        "error_message": f"the provider answered 400: {CANARY}",
        "context": {f"key {CANARY}": ["deep", {"deeper": CANARY}]},
        "metadata": {"tenant": "acme", "user": CANARY},
    }
    return response(**{**told, **changes})


@pytest.mark.parametrize("bare", [without_words, lambda record: as_digests(record, KEY)], ids=["none", "hash"])
@pytest.mark.parametrize(
    "record",
    [words(), attempt(error_message=CANARY), feedback(comment=CANARY)],
    ids=["response", "attempt", "feedback"],
)
def test_digests_and_nothing_hold_no_word_but_every_figure(bare: Any, record: Any) -> None:
    kept = bare(record)
    assert CANARY.encode() in record.to_bytes()
    assert CANARY.encode() not in kept.to_bytes()
    texts = {"prompt", "output", "error_message", "context", "metadata", "content", "comment"}
    assert kept.model_dump(exclude=texts) == record.model_dump(exclude=texts)


def test_the_tenant_is_a_name_and_stays() -> None:
    assert without_words(words()).metadata == {"tenant": "acme"}
    assert as_digests(words(), KEY).metadata["tenant"] == "acme"


def test_each_record_says_how_much_of_it_is_kept() -> None:
    assert without_words(words()).content == "none"
    assert as_digests(words(), KEY).content == "hash"


def test_equal_questions_have_equal_digests_and_only_the_key_can_make_them() -> None:
    one, same = as_digests(words(output="a"), KEY), as_digests(words(output="b"), KEY)
    assert (one.prompt, one.context) == (same.prompt, same.context)
    assert one.output != same.output
    assert as_digests(words(), b"another").prompt != one.prompt
    assert (one.prompt or "").startswith("hmac-sha256:")


def test_a_missing_text_has_no_digest() -> None:
    kept = as_digests(words(output=None, error_message=None, context={}), KEY)
    assert (kept.output, kept.error_message, kept.context) == (None, None, {})


def test_a_lone_surrogate_has_a_digest_too() -> None:
    assert digest("\ud800", KEY) != digest("\ud801", KEY)


@pytest.mark.parametrize(
    ("mesh", "caller", "counts"),
    [
        ("full", None, "full"),
        ("full", "redacted", "redacted"),
        ("redacted", "hash", "hash"),
        ("hash", "none", "none"),
        ("none", "full", "none"),
        ("hash", "redacted", "hash"),
    ],
)
def test_the_stricter_wish_counts(mesh: ContentMode, caller: ContentMode | None, counts: ContentMode) -> None:
    assert stricter(mesh, caller) == counts
    assert PrivacyFilter(mesh).mode(caller) == counts


def test_a_header_can_ask_for_nothing_to_be_kept() -> None:
    asked = parse_request(b'{"prompt": "hi", "content": "hash"}')
    assert heeding(asked, {NO_STORE: "1"}).content == "none"
    assert heeding(asked, {NO_STORE: "0"}) is heeding(asked, {}) is asked


@pytest.mark.parametrize("value", ["true", "yes", "", " 1 ", "2", "on", "1, 0"])
def test_a_no_store_header_that_is_not_understood_keeps_nothing(value: str) -> None:
    asked = parse_request(b"hi")
    assert heeding(asked, {NO_STORE: value}).content == "none"
    assert heeding(asked, {NO_STORE.lower(): value}).content == "none"
    assert heeding(asked, {"Other": value}) is asked


# Redaction


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_key_is_crossed_out_and_the_words_around_it_stay(secret: str) -> None:
    assert Redactor()(f"Is this fine? {secret}\nIt is.") == "Is this fine? [secret]\nIt is."


@pytest.mark.parametrize(("what", "text"), [(what, text) for what, texts in PERSONAL.items() for text in texts])
def test_personal_data_is_crossed_out_and_the_words_around_it_stay(what: str, text: str) -> None:
    assert Redactor()(f"Write to {text}, PLEASE do.") == f"Write to [{what}], PLEASE do."


def test_ordinary_prose_and_code_stay_as_they_are() -> None:
    assert Redactor()(ORDINARY) == ORDINARY


def test_a_password_in_an_address_is_crossed_out() -> None:
    assert "s3cret" not in Redactor()("postgresql://me:s3cret@db.internal/books")


def test_a_private_key_without_an_end_is_crossed_out_to_the_end() -> None:
    assert Redactor()("see -----BEGIN PRIVATE KEY-----\nMIIE\nmore") == "see [secret]"


@pytest.mark.parametrize("before", [*range(redaction.WINDOW - 60, redaction.WINDOW + 10, 7), 50_000])
def test_a_key_is_found_wherever_it_stands_in_a_long_text(before: int) -> None:
    assert Redactor()(f"{'x ' * (before // 2)}{SECRET} end") == f"{'x ' * (before // 2)}[secret] end"


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "eyJ",
        "sk-",
        "+1 ",
        "4444 ",
        "a@a.",
        "://a:",
        "key ",
        "key" + " " * 99,
        "aws",
        "bearer ",
        "AA00 ",
        "(41",
        "//",
    ],
)
def test_no_text_holds_us_up(piece: str) -> None:
    Redactor()(piece * (20_000 // len(piece)))  # seconds, where a pattern is not bounded


async def test_redaction_reaches_deep_into_the_context_and_the_labels() -> None:
    context = {"notes": [{"mail": "jane@example.org"}, 4111111111111111, 1700000000, True, None], SECRET: "x"}
    record = words(context=context, metadata={"tenant": "acme", "user": "jane@example.org"}, prompt=SECRET)
    kept = await PrivacyFilter("redacted").kept(record)
    assert kept.context == {"notes": [{"mail": "[e-mail]"}, "[card]", 1700000000, True, None], "[secret]": "x"}
    assert kept.metadata == {"tenant": "acme", "user": "[e-mail]"}
    assert (kept.prompt, kept.output, kept.content) == ("[secret]", f"output {CANARY}", "redacted")


@pytest.fixture
def no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)


async def test_without_its_libraries_redaction_falls_back_to_digests(no_libraries: None) -> None:
    bare = PrivacyFilter("full", KEY)
    with structlog.testing.capture_logs() as logs:
        kept = [await bare.kept(words(), "redacted") for _ in range(3)]
    assert kept == [as_digests(words(request_id=one.request_id), KEY) for one in kept]
    assert [entry["event"] for entry in logs] == ["not_redacted"]
    assert "pip install 'bullpen-mesh[redaction]'" in logs[0]["reason"]


def test_a_mesh_that_wants_redaction_does_not_start_without_its_libraries(no_libraries: None) -> None:
    with pytest.raises(ConfigError, match=r"content: redacted: .*pip install 'bullpen-mesh\[redaction\]'"):
        PrivacyFilter("redacted")


async def test_a_redaction_that_fails_leaves_digests_and_tells_no_word_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Redactor, text: str) -> str:
        raise RuntimeError(text)

    monkeypatch.setattr(Redactor, "__call__", fails)
    with structlog.testing.capture_logs() as logs:
        kept = await PrivacyFilter("redacted", KEY).kept(words())
    assert kept.content == "hash"
    assert CANARY not in f"{kept} {logs}"


async def test_a_redaction_that_takes_too_long_leaves_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discretion, "WITHIN", 0.0)
    assert (await PrivacyFilter("redacted", KEY).kept(words())).content == "hash"


async def test_what_is_too_long_to_redact_leaves_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discretion, "LONGEST", 100)
    assert (await PrivacyFilter("redacted", KEY).kept(words(prompt="x" * 101))).content == "hash"


async def test_without_a_wish_nothing_changes() -> None:
    record = words()
    assert await PrivacyFilter().kept(record) is record


async def test_each_kind_of_record_can_be_made_bare() -> None:
    bare = PrivacyFilter("none")
    records: list[AttemptRecord | FeedbackRecord] = [
        await bare.kept(attempt(error_message=CANARY, error_code=ErrorCode.UPSTREAM_ERROR)),
        await bare.kept(feedback(comment=CANARY)),
    ]
    assert CANARY not in str(records)


# The key of the digests


def test_the_roles_of_a_data_directory_share_a_private_key(tmp_path: Any) -> None:
    key = content_key(tmp_path)
    assert len(key) >= 32
    assert content_key(tmp_path) == key
    assert (tmp_path / "content.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["content.key"]


def test_the_environment_can_say_the_key(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULLPEN_CONTENT_KEY", "shared")
    assert content_key(tmp_path) == b"shared"
    assert not list(tmp_path.iterdir())


def test_without_a_data_directory_there_is_no_key(tmp_path: Any) -> None:
    assert content_key(tmp_path / "nowhere") == b""
    assert not (tmp_path / "nowhere").exists()


MOST = 40_000
"""Bytes of content that a message has room for, here."""


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a" * MOST, "output": "é" * MOST},
        {"prompt": "\0" * MOST, "output": "\0" * MOST},
        {"prompt": "a", "context": {"a": "b" * MOST * 2}},
        {"prompt": "a", "metadata": {"tenant": "acme", "user": "b" * MOST * 2}},
        {"prompt": "\0" * MOST, "output": '"' * MOST, "metadata": {"tenant": "acme", "user": "b" * (MOST // 5)}},
    ],
    ids=["words", "control characters", "context", "metadata", "everything"],
)
def test_no_answer_is_too_large_for_the_books(changes: dict[str, Any]) -> None:
    """Its words may be: then they are cut, and who pays for it still stands there."""
    told: dict[str, Any] = {"prompt": "a", "output": "b", "metadata": {"tenant": "acme"}, "context": {}} | changes
    record = response(**told)
    kept = record.within(MOST)
    texts = {"prompt", "output", "context", "metadata"}
    assert len(kept.to_bytes()) < MOST + 2000 < len(record.to_bytes())
    assert kept.metadata["tenant"] == "acme"
    assert kept.model_dump(exclude=texts) == record.model_dump(exclude=texts)


def test_what_fits_is_not_cut() -> None:
    record = response(prompt="a" * (MOST // 2), metadata={"tenant": "acme", "user": "b" * (MOST // 3)})
    assert record.within(MOST) == record
