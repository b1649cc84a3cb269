"""The verdict that every page of the console shows, read from what verification printed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ringfence.api.verdicts import read_verdict
from ringfence_audit.counting import Finding
from ringfence_audit.verdict import Grade, Verdict

GOOD = Verdict(Grade.ANCHORED, 90, is_complete=True, covered=90, anchored=70)


def printed(verdict: Verdict) -> bytes:
    return b"a line of something else\n" + json.dumps(verdict.to_json()).encode() + b"\n"


@pytest.mark.parametrize("output", [b"", b"not JSON\n", b"[]\n", b'{"type":"index"}\n'])
def test_a_verification_that_says_nothing_is_no_good_verdict(output: bytes) -> None:
    assert (read_verdict(output).grade, read_verdict(output).is_good) == ("unknown", False)


def test_a_log_that_is_not_complete_is_no_good_one() -> None:
    found = Finding(7, "number 4 of gate:1 is missing")
    incomplete = replace(GOOD, is_complete=False, findings=(found,), position=7, problem=found.problem)
    shown = read_verdict(printed(incomplete))
    assert not shown.is_good
    assert "NOT COMPLETE: entry 7: number 4 of gate:1 is missing" in shown.text


def test_a_broken_log_names_its_entry() -> None:
    shown = read_verdict(printed(Verdict(Grade.BROKEN, 90, "it was changed", 12)))
    assert (shown.is_good, shown.text) == (False, "NOT INTACT: entry 12: it was changed")


def test_what_no_anchor_covers_is_said() -> None:
    shown = read_verdict(printed(GOOD))
    assert (shown.is_good, shown.unanchored) == (True, 20)
    assert shown.text == "anchored: 90 entries, 20 of them unanchored; complete"
    assert "none of them unanchored" in replace(GOOD, anchored=90).text
