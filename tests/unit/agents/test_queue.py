"""The order of the queue: fair between teams and profiles, whatever one of them piles up."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ringfence_agents.queue import InHand, QueueLimits, Ready, held_by, line
from ringfence_tools.calls import RunId


def ready(name: str, *, team: str = "a", profile: str = "p", priority: int = 0, at: int = 0) -> Ready:
    return Ready(RunId(name), team, profile, priority, at)


def hand(**teams: int) -> InHand:
    return InHand(Counter(teams), Counter({"p": sum(teams.values())}))


def names(*candidates: Ready, now: InHand | None = None) -> list[str]:
    return [one.run for one in line(candidates, now or hand())]


def test_a_team_with_many_older_runs_does_not_starve_another() -> None:
    many = [ready(f"a{n}", at=n) for n in range(100)]
    assert names(*many, ready("b0", team="b", at=1_000))[:2] == ["a0", "b0"]


def test_who_has_runs_in_hand_waits_for_who_has_none() -> None:
    assert names(ready("a0", at=0), ready("b0", team="b", at=9), now=hand(a=3)) == ["b0", "a0"]


def test_priority_goes_before_fairness_and_age_decides_within_a_team() -> None:
    assert names(ready("old", at=1), ready("urgent", priority=5, at=9), ready("older", at=0)) == [
        "urgent", "older", "old",
    ]  # fmt: skip


def test_a_limit_names_itself_and_zero_lets_nothing_go() -> None:
    one = ready("a0")
    assert held_by(one, hand(a=2), QueueLimits(in_all=2)) == "2 of 2 runs are going on"
    assert held_by(one, hand(a=2), QueueLimits(teams={"a": 2})) == "team a has 2 of 2 runs going on"
    assert held_by(one, hand(), QueueLimits(profiles={"p": 0})) == "profile p has 0 of 0 runs going on"
    assert held_by(one, hand(b=9), QueueLimits(teams={"b": 1})) == ""


RUNS = st.builds(
    ready,
    st.text("abcdefgh", min_size=6, max_size=6),
    team=st.sampled_from("xyz"),
    profile=st.sampled_from("pq"),
    priority=st.integers(0, 2),
    at=st.integers(0, 50),
)


@given(st.lists(RUNS, max_size=40, unique_by=lambda one: one.run))
def test_every_ready_run_is_in_line_once_and_the_first_depends_on_heads_alone(candidates: list[Ready]) -> None:
    order = list(line(candidates, hand()))
    assert Counter(order) == Counter(candidates)
    assert [one.priority for one in order] == sorted((one.priority for one in candidates), reverse=True)
