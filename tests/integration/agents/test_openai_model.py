"""The model client against a real HTTP endpoint that misbehaves in every way seen in the wild."""

from __future__ import annotations

import json

import pytest

from ringfence_agents.errors import ContextTooLong, ModelError, ModelRefused, ModelUnavailable
from ringfence_agents.model import CONTENT_LIMIT_CHARS, Answer, ModelRequest, Prices
from ringfence_agents.openai_model import RESPONSE_LIMIT_BYTES, Endpoint, OpenAIModel
from ringfence_tools.calls import RunId
from tests.integration.agents.endpoint import USAGE, Reply, end, endpoint, piece, sse, text

KEY = "sk-very-secret-key"
JSON = (("content-type", "application/json"),)
GOOD = Reply(sse(text("Hello"), end("stop"), USAGE))


class Ask:
    """Asks once and keeps what was waited for and what streamed."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.streamed: list[str] = []

    async def __call__(self, base_url: str, *, attempts: int = 3, silence_s: float = 5.0) -> Answer:
        settings = Endpoint(
            "coder",
            base_url,
            KEY,
            attempts=attempts,
            silence_timeout_s=silence_s,
            answer_timeout_s=20,
            prices=Prices(1_000_000, 2_000_000),
        )
        async with OpenAIModel(settings, sleep=self._sleep, jitter=lambda: 0.0) as model:
            request = ModelRequest(
                RunId("r1"),
                1,
                messages=[{"role": "user", "content": "hi"}],
                tools=[{"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}],
                max_output_tokens=100,
            )
            return await model.answer(request, self.streamed.append)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def ask() -> Ask:
    return Ask()


async def test_a_refused_key_stops_at_once_and_is_never_repeated_in_the_message(ask: Ask) -> None:
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}).encode()
    async with endpoint(Reply(body, status=401, headers=JSON)) as fake:
        with pytest.raises(ModelRefused, match="OPENAI_API_KEY") as caught:
            await ask(fake.base_url)
    assert len(fake.requests) == 1
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "no such model"), (400, "bad tools"), (403, "forbidden"), (302, "elsewhere"), (422, "unprocessable")],
)
async def test_an_answer_that_cannot_get_better_is_not_asked_for_again(ask: Ask, status: int, message: str) -> None:
    headers = (*JSON, ("location", "http://127.0.0.1:1/v1/chat/completions"))
    reply = Reply(json.dumps({"error": {"message": message}}).encode(), status=status, headers=headers)
    async with endpoint(reply) as fake:
        with pytest.raises(ModelRefused):
            await ask(fake.base_url)
    assert len(fake.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 500])
async def test_a_context_that_does_not_fit_is_named_as_such(ask: Ask, status: int) -> None:
    body = json.dumps({"error": {"message": "This model's maximum context length is 8192 tokens"}}).encode()
    async with endpoint(Reply(body, status=status, headers=JSON)) as fake:
        with pytest.raises(ContextTooLong):
            await ask(fake.base_url)


BROKEN = {
    "a stream that is cut in the middle": Reply(sse(text("Hel"), done=False), is_cut=True),
    "a stream that ends without a finish reason": Reply(sse(text("Hel"))),
    "broken JSON in an event": Reply(b"data: {nonsense\n\n"),
    "an error event": Reply(sse({"error": {"message": "overloaded"}})),
    "an HTML page": Reply(b"<html>hi</html>", headers=(("content-type", "text/html"),)),
    "nothing at all": Reply(b""),
    "choices that are null": Reply(sse({"choices": None}, {"choices": []}, 7, None, [1])),
    "JSON that is nested without end": Reply(b"data: " + b"[" * 200_000 + b"\n\n"),
    "a JSON body that is broken": Reply(b"{", headers=JSON),
    "an overload": Reply(b"try later", status=503),
    "a rate limit": Reply(b"{}", status=429, headers=JSON),
    "bytes that are no text": Reply(b"data: \xff\xfe\n\n"),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_answer_is_asked_for_again_and_then_given_up(ask: Ask, reply: Reply) -> None:
    async with endpoint(reply) as fake:
        with pytest.raises(ModelUnavailable):
            await ask(fake.base_url)
    assert len(fake.requests) == 3
    assert ask.pauses == [0.5, 1.0]


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_answer_followed_by_a_good_one_is_the_good_one(ask: Ask, reply: Reply) -> None:
    async with endpoint(reply, GOOD) as fake:
        answer = await ask(fake.base_url)
    assert (answer.content, answer.attempts) == ("Hello", 2)


async def test_an_endpoint_that_falls_silent_is_left(ask: Ask) -> None:
    async with endpoint(Reply(sse(text("Hel"), done=False), stalls=True), GOOD) as fake:
        answer = await ask(fake.base_url, silence_s=0.2)
    assert answer.content == "Hello"


async def test_an_endpoint_that_is_not_there_is_unavailable(ask: Ask) -> None:
    with pytest.raises(ModelUnavailable, match="coder"):
        await ask("http://127.0.0.1:9/v1")


async def test_retry_after_is_respected(ask: Ask) -> None:
    async with endpoint(Reply(b"{}", status=429, headers=(*JSON, ("retry-after", "7"))), GOOD) as fake:
        await ask(fake.base_url)
    assert ask.pauses == [7.0]


async def test_a_wish_to_come_back_much_later_lets_go_of_the_worker(ask: Ask) -> None:
    async with endpoint(Reply(b"{}", status=429, headers=(*JSON, ("retry-after", "3600")))) as fake:
        with pytest.raises(ModelUnavailable) as caught:
            await ask(fake.base_url)
    assert caught.value.retry_after_s == 3600.0
    assert len(fake.requests) == 1


async def test_an_exhausted_account_is_not_retried(ask: Ask) -> None:
    body = json.dumps({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}).encode()
    async with endpoint(Reply(body, status=429, headers=JSON)) as fake:
        with pytest.raises(ModelRefused, match="account"):
            await ask(fake.base_url)
    assert len(fake.requests) == 1


async def test_an_endless_response_is_bounded(ask: Ask) -> None:
    huge = Reply(b"data: " + b"x" * (RESPONSE_LIMIT_BYTES + 1))
    async with endpoint(huge) as fake:
        answer = await ask(fake.base_url, attempts=1)
    assert answer.is_cut
    assert answer.content == ""


async def test_an_endless_error_page_is_bounded(ask: Ask) -> None:
    async with endpoint(Reply(b"x" * (RESPONSE_LIMIT_BYTES + 1), status=500)) as fake:
        with pytest.raises(ModelError):
            await ask(fake.base_url, attempts=1)


async def test_ten_megabytes_of_text_are_cut_and_marked(ask: Ask) -> None:
    async with endpoint(Reply(sse(*[text("y" * 100_000)] * 100, end("stop")))) as fake:
        answer = await ask(fake.base_url)
    assert answer.is_cut
    assert answer.finish_reason == "length"
    assert len(answer.content) == CONTENT_LIMIT_CHARS


async def test_an_endpoint_that_does_not_know_stream_options_is_asked_without_them(ask: Ask) -> None:
    refusal = Reply(b'{"error": {"message": "Unrecognized field: stream_options"}}', status=400, headers=JSON)
    async with endpoint(refusal, GOOD) as fake:
        assert (await ask(fake.base_url)).content == "Hello"
    assert "stream_options" in fake.requests[0]
    assert "stream_options" not in fake.requests[1]


async def test_an_endpoint_that_wants_max_completion_tokens_gets_them(ask: Ask) -> None:
    refusal = Reply(b'{"error": {"message": "Use max_completion_tokens, not max_tokens"}}', status=400, headers=JSON)
    async with endpoint(refusal, GOOD) as fake:
        assert (await ask(fake.base_url)).content == "Hello"
    assert fake.requests[1]["max_completion_tokens"] == 100


async def test_a_whole_answer_streams_and_counts(ask: Ask) -> None:
    async with endpoint(Reply(sse(text("Hel"), text("lo"), end("stop"), USAGE))) as fake:
        answer = await ask(fake.base_url)
    assert ask.streamed == ["Hel", "lo"]
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.is_estimated) == (30, 7, False)
    assert f"authorization: bearer {KEY}" in fake.heads[0].lower()


async def test_usage_that_is_not_named_is_estimated_and_marked(ask: Ask) -> None:
    async with endpoint(Reply(sse(text("Hello there"), end("stop")))) as fake:
        answer = await ask(fake.base_url)
    assert answer.usage.is_estimated
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


async def test_a_whole_body_instead_of_a_stream_is_read(ask: Ask) -> None:
    call = {"id": "a", "function": {"name": "shell", "arguments": {"command": "ls"}}}
    body = {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    async with endpoint(Reply(json.dumps(body).encode(), headers=JSON)) as fake:
        answer = await ask(fake.base_url)
    assert [(one.name, json.loads(one.arguments_text)) for one in answer.tool_calls] == [("shell", {"command": "ls"})]


async def test_pieces_of_a_call_become_one_call(ask: Ask) -> None:
    stream = sse(
        piece(index=0, id="a", function={"name": "shell", "arguments": ""}),
        piece(index=0, function={"arguments": '{"comm'}),
        piece(index=0, function={"arguments": 'and": "ls"}'}),
        end("tool_calls"),
    )
    async with endpoint(Reply(stream)) as fake:
        answer = await ask(fake.base_url)
    assert [(one.id, one.name, one.arguments_text) for one in answer.tool_calls] == [
        ("a", "shell", '{"command": "ls"}')
    ]
