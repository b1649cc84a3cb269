"""Chunks that do not keep to the form still become the calls that were meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence_agents.answer_building import AnswerBuilder
from ringfence_agents.model import ARGUMENTS_LIMIT_CHARS, CALLS_LIMIT, Answer


def built(*chunks: object) -> Answer:
    builder = AnswerBuilder()
    for chunk in chunks:
        builder.add(chunk)
    return builder.build(input_text_tokens=5, attempts=1)


def piece(**call: object) -> dict[str, object]:
    return {"choices": [{"delta": {"tool_calls": [call]}}]}


def calls(answer: Answer) -> list[tuple[str, str, str]]:
    return [(call.id, call.name, call.arguments_text) for call in answer.tool_calls]


def test_more_calls_than_the_limit_are_dropped_and_counted() -> None:
    many = [piece(index=n, id=f"c{n}", function={"name": "shell", "arguments": "{}"}) for n in range(CALLS_LIMIT + 3)]
    answer = built(*many)
    assert len(answer.tool_calls) == CALLS_LIMIT
    assert answer.dropped_calls == 3


def test_arguments_beyond_the_limit_end_the_answer() -> None:
    half = "x" * (ARGUMENTS_LIMIT_CHARS // 2 + 1)
    answer = built(
        piece(index=0, id="a", function={"name": "f", "arguments": half}), piece(index=0, function={"arguments": half})
    )
    assert answer.is_cut
    assert len(answer.tool_calls[0].arguments_text) <= ARGUMENTS_LIMIT_CHARS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "message",
                    "tool_calls",
                    "function",
                    "function_call",
                    "index",
                    "id",
                    "name",
                    "arguments",
                    "content",
                    "usage",
                    "prompt_tokens",
                    "completion_tokens",
                    "prompt_tokens_details",
                    "finish_reason",
                    "model",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.lists(json_values, max_size=4))
def test_no_json_of_an_endpoint_makes_the_builder_raise(chunks: list[object]) -> None:
    answer = built(*chunks)
    assert answer.usage.input_tokens >= 0
    assert len(answer.tool_calls) <= CALLS_LIMIT


def test_whole_calls_that_share_index_0_without_an_id_stay_apart() -> None:
    answer = built(
        piece(index=0, function={"name": "read_file", "arguments": '{"path": "a"}'}),
        piece(index=0, function={"name": "read_file", "arguments": '{"path": "b"}'}),
    )
    assert calls(answer) == [("", "read_file", '{"path": "a"}'), ("", "read_file", '{"path": "b"}')]


def test_whole_calls_that_share_index_0_with_ids_stay_apart() -> None:
    answer = built(
        piece(index=0, id="a", function={"name": "list_files", "arguments": ""}),
        piece(index=0, id="b", function={"name": "list_files", "arguments": ""}),
    )
    assert [call[0] for call in calls(answer)] == ["a", "b"]


def test_a_name_repeated_in_every_piece_is_one_call() -> None:
    answer = built(
        piece(index=0, id="a", function={"name": "shell", "arguments": '{"a"'}),
        piece(index=0, id="a", function={"name": "shell", "arguments": ": 1}"}),
    )
    assert calls(answer) == [("a", "shell", '{"a": 1}')]


def test_pieces_without_an_index_go_to_the_last_call() -> None:
    answer = built(
        piece(index=None, id="a", function={"name": "shell", "arguments": '{"a"'}),
        piece(index=None, function={"arguments": ": 1}"}),
        piece(index=None, id="b", function={"name": "finish", "arguments": "{}"}),
    )
    assert calls(answer) == [("a", "shell", '{"a": 1}'), ("b", "finish", "{}")]


def test_the_old_function_call_form_is_read() -> None:
    answer = built({"choices": [{"delta": {"function_call": {"name": "shell", "arguments": "{}"}}}]})
    assert calls(answer) == [("", "shell", "{}")]


def test_content_in_parts_is_joined() -> None:
    answer = built({"choices": [{"delta": {"content": [{"type": "text", "text": "a"}, {"text": "b"}, 3]}}]})
    assert answer.content == "ab"


@pytest.mark.parametrize("usage", [{"prompt_tokens": -1}, {"prompt_tokens": True}, {"prompt_tokens": "9"}, [], None])
def test_usage_that_is_nonsense_is_estimated(usage: object) -> None:
    answer = built({"usage": usage, "choices": []})
    assert answer.usage.is_estimated
    assert answer.usage.input_tokens == 5
