"""Passwords, one-time codes and tokens, against the vectors of their standards."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.auth import passwords
from ringfence.auth.errors import PasswordWeak
from ringfence.auth.secret_values import fingerprint, new_token, read_token

SEED = base64.b32encode(b"12345678901234567890").decode()


@pytest.mark.parametrize("weak", ["", "short", "a" * 40, "x" * 600])
def test_a_weak_password_is_refused(weak: str) -> None:
    with pytest.raises(PasswordWeak):
        passwords.hash_password(weak)


@pytest.mark.parametrize("stored", ["", "scrypt$1$2", "plain", "$" * 5])
def test_no_password_opens_an_account_without_one(stored: str) -> None:
    assert not passwords.is_password("", stored)


def test_only_the_same_password_opens() -> None:
    stored = passwords.hash_password("correct horse battery")
    assert not passwords.is_password("correct horse batterY", stored)
    assert passwords.is_password("correct horse battery", stored)
    assert "correct" not in stored


@pytest.mark.parametrize(
    ("at_s", "code"), [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")]
)
def test_codes_are_those_of_rfc_6238(at_s: int, code: str) -> None:
    assert passwords.code_at(SEED, at_s // 30) == code


def test_a_code_is_good_once_and_only_around_its_time() -> None:
    code = passwords.code_at(SEED, 100)
    assert passwords.matching_step(SEED, code, now_s=3000, after=100) is None
    assert passwords.matching_step(SEED, code, now_s=3090, after=0) is None
    assert passwords.matching_step(SEED, code, now_s=3030, after=0) == 100


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "١٢٣٤٥٦"])
def test_what_is_no_code_never_matches(code: str) -> None:
    assert passwords.matching_step(SEED, code, now_s=59, after=0) is None


def test_a_token_is_recognised_and_kept_only_as_a_hash() -> None:
    token = new_token()
    assert str(token).startswith("rf_")
    assert read_token(str(token)) == token
    assert token.secret not in repr(token)
    assert token.secret not in fingerprint(token.secret)


@given(st.text(max_size=80))
def test_any_other_text_is_no_token(text: str) -> None:
    assert read_token(text) is None or text.startswith("rf_")
