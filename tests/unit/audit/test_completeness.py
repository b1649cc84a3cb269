"""The grade *complete*: what does not fit in the story that entries tell is found, and what fits is left alone."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest

from ringfence_audit.completeness import Completeness
from ringfence_audit.counters import START, advance, fingerprint, signed_message
from ringfence_audit.dropped import Dropped
from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.facts import Entry
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
LATER_US = int(NOW.timestamp() * 1_000_000) + 60_000_000
CALL = "r1/1/0"
GATE = Signer.generate("gate.example")
PEOPLE = Signer.generate("people.example")


def entry(
    kind: Kind, data: Mapping[str, JsonValue], *, actor: str = "agent:r1", call: str = CALL, person: str = "person:ana"
) -> Entry:
    return Entry(0, kind, actor, person, call, "r1", 0, None, NOW, data)


def judged(*entries: Entry | Dropped) -> tuple[list[str], tuple[str, ...]]:
    story = Completeness()
    for position, item in enumerate(entries):
        if isinstance(item, Dropped):
            story.take_dropped(item._replace(position=position))
        else:
            story.take(item._replace(position=position))
    opened = story.finish()
    return [str(finding) for finding in story.findings], opened


def problems(*entries: Entry | Dropped) -> list[str]:
    return judged(*entries)[0]


INTENT = entry(Kind.INTENT, {"digest": "aa", "decision": {"effect": "allow", "policy_version": "1"}})
OUTCOME = entry(Kind.OUTCOME, {"digest": "aa", "status": "ok"})
CLOSED = entry(Kind.RUN_CLOSED, {"status": "finished"}, call="")
ASKED = entry(
    Kind.ESCALATION,
    {
        "escalation": 7,
        "digest": "aa",
        "policy_version": "1",
        "terms": {"any_of": ["lead"], "all_of": ["security"], "four_eyes": True},
    },
)
BEN = entry(Kind.VOTE, {"escalation": 7, "digest": "aa", "verdict": "approve", "groups": ["lead"]}, actor="person:ben")
EVE = entry(
    Kind.VOTE, {"escalation": 7, "digest": "aa", "verdict": "approve", "groups": ["security"]}, actor="person:eve"
)
APPROVED = entry(Kind.SETTLED, {"escalation": 7, "digest": "aa", "state": "approved"}, actor="person:eve")
ACTS = entry(
    Kind.INTENT,
    {
        "digest": "aa",
        "escalation": 7,
        "approvers": ["ben", "eve"],
        "decision": {"effect": "escalate", "policy_version": "1"},
    },
)
GIVEN = entry(Kind.GRANT_GIVEN, {"grant": "g-1", "uses": 1, "expires_at": LATER_US})
USED = entry(Kind.GRANT_USED, {"grant": "g-1"})
REVOKED = entry(Kind.GRANT_REVOKED, {"grant": "g-1"})


def with_data(item: Entry, **fields: JsonValue) -> Entry:
    return item._replace(data={**item.data, **fields})


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([INTENT, CLOSED], "entry 0: call r1/1/0 has neither outcome nor gap"),
        ([INTENT, INTENT, OUTCOME], "acts again, and its first intent has no outcome"),
        ([INTENT, with_data(OUTCOME, digest="bb")], "entry 1: call r1/1/0 carried out other bytes"),
        ([with_data(INTENT, decision={"effect": "forbid"})], "although the decision was to forbid"),
        ([with_data(INTENT, decision={"effect": "escalate"})], "although the decision was to escalate"),
        ([ACTS], "acts on E-7, which nobody approved"),
        ([ASKED, BEN, EVE, ACTS], "acts on E-7, which nobody approved"),
        ([ASKED, BEN, APPROVED], "by people who do not hold the groups that were asked"),
        ([ASKED, APPROVED], "by people who do not hold the groups that were asked"),
        ([APPROVED], "an escalation that was never opened"),
        ([BEN], "a vote on an escalation that was never opened"),
        ([ASKED, with_data(BEN, digest="bb")], "approved other bytes than were asked about"),
        ([ASKED, BEN._replace(actor="person:ana")], "person:ana approved what was asked on their own behalf"),
        ([ASKED, BEN, EVE, APPROVED, with_data(ACTS, digest="bb")], "acts on other bytes than those that E-7 approved"),
        ([ASKED, BEN, EVE, APPROVED, ACTS, OUTCOME, ACTS], "which r1/1/0 has used already"),
        ([ASKED, BEN, EVE, APPROVED, with_data(ACTS, approvers=["mallory"])], "an approver who has not approved"),
        (
            [ASKED, BEN, EVE, APPROVED, with_data(ACTS, decision={"policy_version": "2"})],
            "under another policy than E-7 was asked under",
        ),
        ([USED], "grant g-1 was never given"),
        ([GIVEN, USED, USED], "used more often than it allowed"),
        ([GIVEN, REVOKED, USED], "which was revoked before"),
        ([with_data(GIVEN, expires_at=1), USED], "which had expired"),
        ([with_data(INTENT, grants=["g-9"])], "rests on grant g-9, which was never given"),
        ([entry(Kind.EGRESS_OPENED, {"effect": "forbid", "host": "x"})], "that policy did not allow"),
        ([entry(Kind.EGRESS_OPENED, {"effect": "escalate", "grants": []})], "that policy did not allow"),
    ],
)
def test_what_does_not_fit_is_found_and_named(entries: Sequence[Entry], words: str) -> None:
    found = problems(*entries)
    assert found
    assert words in found[0]


@pytest.mark.parametrize(
    "entries",
    [
        [INTENT, OUTCOME, CLOSED],
        [INTENT, entry(Kind.GAP, {"reason": "the sandbox is gone"}), CLOSED],
        [ASKED, BEN, EVE, APPROVED, ACTS, OUTCOME, CLOSED],
        [GIVEN, USED, REVOKED],
        [
            ASKED,
            BEN,
            EVE,
            APPROVED,
            entry(Kind.DECISION, {"decision": {"effect": "escalate", "policy_version": "2"}}),
            with_data(ACTS, decision={"policy_version": "2"}),
            OUTCOME,
        ],
    ],
)
def test_a_story_that_fits_has_no_findings(entries: Sequence[Entry]) -> None:
    assert judged(*entries) == ([], ())


def test_an_intent_of_a_run_that_goes_on_is_open_and_no_finding() -> None:
    assert judged(INTENT) == ([], (CALL,))


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("value", [None, 7, "text", ["a"], {"a": 1}, True, -(2**53), [[[]]]])
def test_hostile_shapes_raise_nothing(kind: Kind, value: JsonValue) -> None:
    names = (
        *("escalation", "grant", "grants", "digest", "decision", "terms", "votes", "approvers", "state", "verdict"),
        *("producer", "numbers", "marks", "count", "head", "key", "signature", "uses", "expires_at", "effect"),
    )
    problems(ASKED, entry(kind, dict.fromkeys(names, value)), entry(kind, {"producer": {"id": "g", "n": value}}))


# -- producers ------------------------------------------------------------------------------------------------------


def numbered(number: int, item: Entry = INTENT, *, digest: str = "") -> Entry:
    changed = with_data(item, digest=digest or f"d{number}", producer={"id": "gate:1", "n": number})
    return changed._replace(call=f"r1/{number}/0")


def head_of(entries: Sequence[Entry]) -> bytes:
    head = START
    for item in entries:
        head = advance(head, fingerprint(item, "gate:1"))
    return head


def count(number: int, head: bytes, signer: Signer = GATE) -> Entry:
    signature = base64.b64encode(signer.sign(signed_message("gate:1", number, head))).decode()
    data: dict[str, JsonValue] = {
        "producer": {"id": "gate:1"},
        "key": str(VerifierKey.of_log("gate.example", signer.public_key)),
        "count": number,
        "head": head.hex(),
        "signature": signature,
    }
    return entry(Kind.COUNT, data, actor="system:gate", call="")


CALLS = [
    item
    for n in range(6)
    for item in (numbered(2 * n), numbered(2 * n + 1, OUTCOME, digest=f"d{2 * n}")._replace(call=f"r1/{2 * n}/0"))
]
COUNTED = [*CALLS, count(12, head_of(CALLS))]


def test_an_intent_dropped_together_with_its_outcome_leaves_a_hole() -> None:
    found = problems(*CALLS[:4], *CALLS[6:], COUNTED[-1])
    assert any("number 4 of gate:1 is missing, and no gap accounts for it" in problem for problem in found)


def test_numbers_given_out_anew_contradict_the_signed_count() -> None:
    kept = [*CALLS[:4], *CALLS[6:]]
    renumbered = [with_data(item, producer={"id": "gate:1", "n": n}) for n, item in enumerate(kept)]
    assert "counted 12 events, and only 10 are there" in problems(*renumbered, COUNTED[-1])[0]
    forged = count(10, head_of(renumbered), Signer.generate("gate.example"))
    assert "another key than before" in problems(*CALLS[:2], count(2, head_of(CALLS[:2])), *renumbered[2:], forged)[0]


def test_a_changed_event_contradicts_the_signed_count() -> None:
    changed = [*CALLS[:3], with_data(CALLS[3], status="failed"), *CALLS[4:]]
    assert "signed other events than those that are there" in problems(*changed, COUNTED[-1])[0]


def test_a_count_that_its_producer_did_not_sign_is_found() -> None:
    forged = with_data(COUNTED[-1], signature=base64.b64encode(bytes(64)).decode())
    assert "is not signed by its key" in problems(*CALLS, forged)[0]


def test_the_last_events_before_a_signed_count_cannot_be_dropped() -> None:
    assert "counted 12 events, and only 10 are there" in problems(*CALLS[:10], COUNTED[-1])[0]


def test_a_number_that_comes_twice_is_found() -> None:
    assert "number 1 of gate:1 comes twice" in problems(*CALLS[:2], CALLS[1])[0]


def test_a_counted_story_fits() -> None:
    assert problems(*COUNTED) == []


def test_a_reported_gap_accounts_for_missing_numbers() -> None:
    lost = CALLS[4:6]
    marks: list[JsonValue] = [fingerprint(item, "gate:1").hex() for item in lost]
    gap = entry(Kind.GAP, {"producer": {"id": "gate:1"}, "numbers": [4, 5], "marks": marks, "count": 2}, call="")
    assert problems(*CALLS[:4], *CALLS[6:], gap, COUNTED[-1]) == []


# -- what retention dropped -----------------------------------------------------------------------------------------


def dropped(number: int) -> Dropped:
    """What retention keeps of the gate's event of this number."""
    return Dropped(0, "r1", number, "gate:1", number, fingerprint(CALLS[number], "gate:1"))


AFTER = numbered(12)._replace(call="r1/12/0")


def test_a_dropped_entry_excuses_no_number_but_its_own() -> None:
    """Ten entries are gone by retention, and a call (numbers 4 and 5) by somebody's hand."""
    kept = [dropped(number) for number in range(12) if number not in (4, 5)]
    found = problems(*kept, COUNTED[-1], AFTER)
    assert found[0] == "entry 4: number 4 of gate:1 is missing, and no gap accounts for it"


def test_an_excuse_that_is_used_twice_is_found() -> None:
    kept = [dropped(number) for number in (0, 1, 2, 3, 3, 5)]
    assert "number 3 of gate:1 comes twice" in problems(*kept, COUNTED[-1])[0]


def test_another_event_in_the_place_of_a_dropped_one_contradicts_the_signed_count() -> None:
    kept = [dropped(number) for number in range(12)]
    kept[5] = kept[5]._replace(mark=fingerprint(CALLS[7], "gate:1"))
    assert "signed other events than those that are there" in problems(*kept, COUNTED[-1])[0]


def test_entries_that_retention_dropped_leave_no_false_hole() -> None:
    kept = [dropped(number) for number in range(12)]
    assert judged(*kept, COUNTED[-1], AFTER) == ([], ("r1/12/0",))
    assert judged(*kept[:8], *CALLS[8:], COUNTED[-1], AFTER) == ([], ("r1/12/0",))


@pytest.mark.parametrize("value", [None, 7, "text", b"x", b"", 2**63, -1])
def test_hostile_rows_of_dropped_entries_raise_nothing(value: object) -> None:
    row = Dropped(0, "r1", 0, value, value, value)  # type: ignore[arg-type]  # a changed file holds anything
    problems(row, row._replace(producer="gate:1"), COUNTED[-1])


# -- what people do -------------------------------------------------------------------------------------------------


def acts(*told: Entry, signer: Signer = PEOPLE) -> list[Entry]:
    """As the log stamps what people do: numbered and signed each."""
    found: list[Entry] = []
    head, name = START, f"people:{signer.public_key.hex()[:16]}"
    for number, item in enumerate(told):
        head = advance(head, fingerprint(item, name))
        stamp: dict[str, JsonValue] = {
            "id": name,
            "n": number,
            "key": str(VerifierKey.of_log("people.example", signer.public_key)),
            "head": head.hex(),
            "signature": base64.b64encode(signer.sign(signed_message(name, number + 1, head))).decode(),
        }
        found.append(with_data(item, producer=stamp))
    return found


VOTED = acts(BEN, EVE, APPROVED, entry(Kind.LOGIN, {"what": "login"}, actor="person:eve", call=""))


def test_a_vote_dropped_together_with_what_it_allowed_leaves_a_hole() -> None:
    other = acts(BEN, with_data(BEN, verdict="deny"), EVE, entry(Kind.LOGIN, {"what": "login"}, call=""))
    (hole,) = problems(ASKED, other[0], *other[2:])
    assert f"number 1 of {other[0].data['producer']['id']} is missing" in hole  # type: ignore[index,call-overload]  # a stamp


@pytest.mark.parametrize(
    "change", [{"verdict": "deny"}, {"groups": ["lead", "security"]}, {"escalation": 8}, {"digest": "bb"}]
)
def test_a_vote_that_was_changed_is_not_what_was_signed(change: Mapping[str, JsonValue]) -> None:
    assert any("signed other events" in found for found in problems(ASKED, with_data(VOTED[0], **change)))


def test_a_vote_under_another_name_is_not_what_was_signed() -> None:
    assert "signed other events" in problems(ASKED, VOTED[0]._replace(actor="person:eve"))[0]


def test_an_act_that_nobody_counted_is_found_where_acts_are_counted() -> None:
    assert problems(ASKED, VOTED[0], EVE)[0] == "entry 2: nobody counted it, and what people do is counted"
    assert problems(ASKED, BEN, EVE) == []


def test_an_act_that_the_peoples_key_did_not_sign_is_found() -> None:
    forged = with_data(VOTED[1], producer={**VOTED[1].data["producer"], "signature": "AAAA"})  # type: ignore[dict-item]  # a stamp
    assert "is not signed by its key" in problems(ASKED, VOTED[0], forged)[0]


def test_a_story_of_signed_acts_fits() -> None:
    assert problems(ASKED, *VOTED, ACTS, OUTCOME) == []
