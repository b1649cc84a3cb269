"""Compaction: what is shown shrinks, calls keep their answers, people keep their words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence_agents.compaction import Compaction, View, plan, tokens_under
from ringfence_agents.conversation import MessageRow, Role, assistant_body, tool_body
from ringfence_agents.model import Message, ModelCall
from ringfence_tools.calls import RunId

RUN = RunId("r1")


def view_of(outputs: list[list[int]], *, person_at: int = 0, arguments: int = 10) -> View:
    """One turn for each list; each number is the length of one tool output."""
    rows = [
        MessageRow(RUN, 0, 0, Role.SYSTEM, {"content": "rules"}),
        MessageRow(RUN, 1, 0, Role.USER, {"content": "the task"}),
    ]
    for turn, lengths in enumerate(outputs, 1):
        calls = [ModelCall(f"c{n}", "shell", json.dumps({"command": "x" * arguments})) for n in range(len(lengths))]
        rows.append(MessageRow(RUN, len(rows), turn, Role.ASSISTANT, assistant_body(f"step {turn}", calls, turn=turn)))
        for n, length in enumerate(lengths):
            body = tool_body(echo_id=f"c{n}", tool="shell", status="ok", text="o" * length)
            rows.append(MessageRow(RUN, len(rows), turn, Role.TOOL, body))
        if turn == person_at:
            rows.append(MessageRow(RUN, len(rows), turn, Role.PERSON, {"author": "ana", "content": "mind the gap"}))
    view = View()
    view.add(rows)
    return view


def applied(view: View, how: Compaction) -> View:
    view.add([MessageRow(RUN, view.next_seq, view.rows[-1].turn, Role.COMPACTION, how.to_body())])
    return view


def assert_every_call_has_its_answer(messages: tuple[Message, ...]) -> None:
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] == waiting.pop(0)
            continue
        assert waiting == []
        calls = json.loads(json.dumps(message.get("tool_calls") or []))
        waiting = [call["id"] for call in calls]
    assert waiting == []


def test_a_conversation_that_fits_is_left_alone() -> None:
    assert plan(view_of([[100], [100]]), 10_000) is None


def test_a_task_that_cannot_fit_is_not_pretended_to_fit() -> None:
    view = view_of([[10]])
    how = plan(view, 5)
    assert how is not None
    assert tokens_under(view, how) > 5


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30_000), max_size=4), min_size=1, max_size=12),
    st.integers(2_500, 20_000),
    st.integers(0, 12),
    st.integers(1, 5_000),
)
def test_calls_are_never_separated_from_their_answers(
    outputs: list[list[int]], limit: int, person_at: int, arguments: int
) -> None:
    view = view_of(outputs, person_at=person_at, arguments=arguments)
    how = plan(view, limit)
    if how is None:
        return
    expected = tokens_under(view, how)
    view = applied(view, how)
    assert view.tokens == expected
    assert_every_call_has_its_answer(view.messages)
    assert view.messages[0]["content"] == "rules"
    assert view.messages[1]["content"] == "the task"
    if 0 < person_at <= len(outputs):
        assert any("mind the gap" in str(message["content"]) for message in view.messages)


def test_old_outputs_go_first_and_the_latest_stay_whole() -> None:
    view = view_of([[3_000]] * 6)
    how = plan(view, 5_000)
    assert how is not None
    assert how.dropped_through == 0
    view = applied(view, how)
    assert view.tokens <= 5_000
    assert view.messages[-1]["content"] == "o" * 3_000


def test_what_was_dropped_is_told_in_one_message() -> None:
    view = view_of([[10]] * 300)
    how = plan(view, 4_000)
    assert how is not None
    view = applied(view, how)
    assert "were left out" in str(view.messages[2]["content"])
    assert f"{how.dropped_through}: shell" in str(view.messages[2]["content"])
    assert view.tokens <= 4_000


def test_one_output_that_is_too_large_is_trimmed_in_the_middle() -> None:
    view = view_of([[400_000]])
    how = plan(view, 20_000)
    assert how is not None
    view = applied(view, how)
    assert view.tokens <= 20_000
    assert "left out to save room" in str(view.messages[-1]["content"])


def test_compacting_again_builds_on_what_was_compacted() -> None:
    view = view_of([[10]] * 100)
    first = plan(view, 4_000)
    assert first is not None
    view = applied(view, first)
    turn = view.rows[-1].turn
    for extra in range(1, 101):
        body = assistant_body("more", [ModelCall("c0", "shell", "{}")], turn=turn + extra)
        view.add([MessageRow(RUN, view.next_seq, turn + extra, Role.ASSISTANT, body)])
        answer = tool_body(echo_id="c0", tool="shell", status="ok", text="o" * 10)
        view.add([MessageRow(RUN, view.next_seq, turn + extra, Role.TOOL, answer)])
    second = plan(view, 4_000)
    assert second is not None
    assert second.dropped_through > first.dropped_through
    assert_every_call_has_its_answer(applied(view, second).messages)


@pytest.mark.parametrize(
    "body", [{}, {"elided": "x"}, {"elided": ["a", None], "dropped_through": "3", "trim_chars": []}]
)
def test_a_crafted_compaction_row_shows_everything_rather_than_failing(body: dict[str, object]) -> None:
    assert Compaction.from_body(json.loads(json.dumps(body))).dropped_through == 0
