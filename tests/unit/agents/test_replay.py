"""The replayed model stops where the real results are not what was recorded, and goes on where they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence_agents.errors import ReplayDiverged, TranscriptInvalid
from ringfence_agents.model import ModelRequest, SeenResult
from ringfence_agents.replay import ReplayModel
from ringfence_agents.transcript import parse_transcript
from ringfence_tools.calls import CallKey, ResultStatus, RunId

HEAD = '{"kind": "transcript", "version": 1, "model": "coder", "note": "a demo"}\n'
RUN = RunId("r1")


def result(status: ResultStatus = ResultStatus.OK, text: str = "fine", code: int = 0) -> SeenResult:
    return SeenResult(CallKey(RUN, 1, 0), "shell", status, text, {"exit_code": code})


def request(turn: int, *results: SeenResult, bookmark: str = "") -> ModelRequest:
    return ModelRequest(RUN, turn, (), (), 100, results, bookmark)


def model(*lines: str) -> ReplayModel:
    return ReplayModel(parse_transcript(HEAD + "\n".join(lines), name="t.jsonl"))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "empty"),
        ("{", "line 1"),
        ('{"kind": "answer"}', "line 1"),
        (HEAD + "{}\nnonsense", "line 3"),
        (HEAD + '{"surprise": 1}', "line 2"),
        (HEAD + '{"expect": [{"status": "splendid"}]}', "line 2"),
    ],
)
def test_a_malformed_transcript_names_the_line(text: str, place: str) -> None:
    with pytest.raises(TranscriptInvalid, match=place):
        parse_transcript(text, name="t.jsonl")


@given(st.text(max_size=200))
def test_no_text_makes_reading_raise_anything_else(text: str) -> None:
    try:
        parse_transcript(HEAD + text, name="t.jsonl")
    except TranscriptInvalid as error:
        assert "t.jsonl" in str(error)


@pytest.mark.parametrize(
    "expect",
    ['{"status": "failed"}', '{"contains": "1 passed"}', '{"exit_code": 1}', '{"sha256": "00"}'],
)
async def test_a_result_that_is_not_as_recorded_stops_the_replay(expect: str) -> None:
    replay = model(f'{{"content": "x", "expect": [{expect}]}}')
    with pytest.raises(ReplayDiverged, match="shell"):
        await replay.answer(request(1, result()), lambda _: None)


async def test_a_missing_result_stops_the_replay() -> None:
    replay = model('{"expect": [{"status": "ok"}]}')
    with pytest.raises(ReplayDiverged):
        await replay.answer(request(1), lambda _: None)


async def test_a_transcript_that_ends_too_early_stops_the_replay() -> None:
    replay = model('{"content": "only one"}')
    first = await replay.answer(request(1), lambda _: None)
    with pytest.raises(ReplayDiverged, match="ends"):
        await replay.answer(request(2, bookmark=first.bookmark), lambda _: None)


@pytest.mark.parametrize(
    ("status", "said"),
    [(ResultStatus.DENIED, "another way"), (ResultStatus.OK, "goes on"), (ResultStatus.FAILED, "meets")],
)
async def test_a_transcript_can_go_two_ways(status: ResultStatus, said: str) -> None:
    replay = model(
        '{"content": "another way", "when": [{"status": ["denied", "forbidden"]}]}',
        '{"content": "goes on", "when": [{"status": "ok"}]}',
        '{"content": "meets"}',
    )
    heard: list[str] = []
    await replay.answer(request(1, result(status)), heard.append)
    assert heard == [said]


async def test_the_bookmark_alone_says_where_it_stands() -> None:
    lines = ('{"content": "a"}', '{"tool_calls": [{"name": "shell", "arguments": {"command": "ls"}}]}')
    first = await model(*lines).answer(request(1), lambda _: None)
    second = await model(*lines).answer(request(2, bookmark=first.bookmark), lambda _: None)
    assert [(call.name, call.arguments_text) for call in second.tool_calls] == [("shell", '{"command": "ls"}')]


def test_it_says_that_it_is_a_replay() -> None:
    replay = model('{"content": "a"}')
    assert replay.is_replay
    assert "recorded model" in replay.note
    assert "a demo" in replay.note
