"""A credential that a server repeats: found in any piece and as usually written, and nothing else is touched."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence_sandbox.egress.scrub import Scrubber, forms

TOKEN = "ghp_s3cret/token+value"


def in_pieces(data: bytes, size: int) -> bytes:
    scrubber = Scrubber(forms([f"Bearer {TOKEN}"]))
    passed = [scrubber.feed(data[at : at + size]) for at in range(0, len(data), size)]
    return b"".join(passed) + scrubber.end()


@pytest.mark.parametrize("size", [*range(1, 9), 1000])
def test_a_token_is_found_however_it_is_cut(size: int) -> None:
    told = in_pieces(b'{"authorization": "Bearer ' + TOKEN.encode() + b'"} ghp_', size)
    assert TOKEN[4:].encode() not in told
    assert told.count(b"*") >= len(TOKEN) - 3
    assert told.endswith(b'"} ghp_')
    assert len(told) == 26 + len(TOKEN) + 7


@pytest.mark.parametrize(
    "written", ["ghp_s3cret%2Ftoken%2Bvalue", "ghp_s3cret/token%2Bvalue", r"ghp_s3cret\/token+value"]
)
def test_a_token_is_found_as_a_url_or_json_writes_it(written: str) -> None:
    assert set(in_pieces(written.encode(), 1000)) == {ord("*")}


def test_a_password_is_found_that_a_server_has_decoded() -> None:
    pair = base64.b64encode(b"robot:long-password").decode()
    scrubber = Scrubber(forms([f"Basic {pair}"]))
    assert scrubber.feed(b"user=robot password=long-password;") == b"user=robot password=*************;"


def test_a_stream_that_ends_in_a_letter_of_the_token_does_not_wait() -> None:
    assert Scrubber(forms([f"Bearer {TOKEN}"])).feed(b"data: gh") == b"data: gh"


@given(st.lists(st.binary(max_size=20)))
def test_what_holds_no_token_passes_as_it_is(pieces: list[bytes]) -> None:
    scrubber = Scrubber(forms([f"Bearer {TOKEN}"]))
    assert b"".join([*map(scrubber.feed, pieces), scrubber.end()]) == b"".join(pieces)
