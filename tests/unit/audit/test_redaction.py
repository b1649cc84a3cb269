from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence_audit.events import JsonValue
from ringfence_audit.redaction import InvalidRedaction, Redactor, Rule

# Built from parts, so that no scanner of this repository takes them for real ones.
_SAMPLES = {
    "private-key": "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIEow/IBAAK+CAQEA\nqwer==\n-----END RSA PRIVATE KEY-----",
    "aws-key": "AK" + "IAIOSFODNN7EXAMPLE",
    "github-token": "gh" + "p_" + "a1B2" * 9,
    "gitlab-token": "gl" + "pat-" + "a1B2c" * 4,
    "slack-token": "xo" + "xb-123456789012-abcdefghij",
    "model-key": "s" + "k-proj-" + "a1B2" * 8,
    "google-key": "AI" + "za" + "a1B2c" * 7,
    "jwt": "ey" + "JhbGciOiJIUzI1NiJ9.ey" + "JzdWIiOiIxMjM0In0.abc_DEF-123",
    "npm-token": "np" + "m_" + "a1B2" * 9,
}


@pytest.mark.parametrize("pattern", ["^x", "x$", "(", "x*"])
def test_a_rule_that_could_miss_or_ruin_text_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRedaction):
        Redactor([Rule("odd", pattern)])


def test_a_value_too_short_to_be_taken_out_is_refused() -> None:
    with pytest.raises(InvalidRedaction, match="shorter"):
        Redactor().hold("pin", "12345")


@pytest.mark.parametrize("name", sorted(_SAMPLES))
def test_what_looks_like_a_secret_is_taken_out(name: str) -> None:
    redactor = Redactor()
    text = f"before {_SAMPLES[name]} after"
    assert not redactor.is_clean([text], [])
    cleaned = redactor.redact(text)
    assert f"[redacted:{name}]" in cleaned
    assert _SAMPLES[name] not in cleaned
    assert cleaned.startswith("before ")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("https://ana:hunter22@example.org/x", "https://ana:[redacted:url-password]@example.org/x"),
        ('export DB_PASSWORD="hunter22"', 'export DB_PASSWORD="[redacted:assignment]"'),
        ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: Bearer [redacted:authorization]"),
        ("api_key: qwertyuiop", "api_key: [redacted:assignment]"),
    ],
)
def test_only_the_secret_part_is_taken_out(text: str, cleaned: str) -> None:
    assert Redactor().redact(text) == cleaned


def test_ordinary_text_is_left_alone() -> None:
    redactor = Redactor()
    for text in (
        "pytest -q tests/test_password.py",
        "def secret(): ...",
        "a" * 64,
        "task-123",
        "https://example.org:8443/",
    ):
        assert redactor.is_clean([text], []), text
        assert redactor.redact(text) == text


@given(st.text(st.characters(codec="utf-8"), min_size=8, max_size=40), st.binary(max_size=5), st.binary(max_size=5))
def test_a_held_value_is_taken_out_in_every_form(value: str, before: bytes, after: bytes) -> None:
    redactor = Redactor([], values={"token": value})
    raw = value.encode()
    wrapped = base64.b64encode(before + raw + after).decode()
    for form in (value, quote(value, safe=""), raw.hex(), wrapped, base64.urlsafe_b64encode(before + raw).decode()):
        assert not redactor.is_clean(["x", form], [])
        assert "[redacted:token]" in redactor.redact(form)
    assert value not in redactor.redact(f"a{value}b")


def test_a_released_value_is_no_longer_looked_for() -> None:
    redactor = Redactor([], values={"token": "swordfish"})
    redactor.release("token")
    assert redactor.redact("swordfish") == "swordfish"


def test_text_below_a_sensitive_key_is_taken_out_whatever_it_looks_like() -> None:
    redactor = Redactor()
    value: JsonValue = {"headers": {"Authorization": ["x", "y"], "n": 1}, "Password": "a"}
    assert not redactor.is_clean([], ["Password"])
    assert redactor.redact_value(value) == {
        "headers": {"Authorization": ["[redacted:authorization]"] * 2, "n": 1},
        "Password": "[redacted:password]",
    }


def test_keys_that_hold_secrets_are_redacted_without_losing_a_field() -> None:
    redactor = Redactor([], values={"token": "swordfish"})
    assert not redactor.is_clean([], ["swordfish"])
    assert redactor.redact_value({"swordfish": 1, "[redacted:token]": 2}) == {
        "[redacted:token]": 1,
        "[redacted:token]#2": 2,
    }


@given(st.lists(st.sampled_from([*_SAMPLES.values(), "x", "password=", "hunter22", "\n", " ", "é"]), max_size=12))
def test_what_is_called_clean_is_never_changed_and_the_rest_ends_clean(parts: list[str]) -> None:
    redactor = Redactor()
    text = " ".join(parts)
    cleaned = redactor.redact(text)
    assert not (redactor.is_clean([text], []) and cleaned != text)
    assert not any(sample in cleaned for sample in _SAMPLES.values())
