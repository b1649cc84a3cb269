"""A model behind any OpenAI-compatible endpoint: streaming, with our own retries, bounds and verdicts on failure.

The library retries nothing here (`max_retries=0`): what may be asked again and how long to wait is decided in
`model_failures`, in one place for errors before, during and at the end of a stream.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType

import httpx2
import orjson
from openai import AsyncOpenAI, AsyncStream, DefaultAsyncHttpxClient, OpenAIError

from ringfence_agents.answer_building import AnswerBuilder
from ringfence_agents.errors import ModelUnavailable
from ringfence_agents.model import Answer, ModelRequest, OnDelta, Prices, estimate_tokens
from ringfence_agents.model_failures import OverLong, Retry, StreamBroken, Unsupported, unsupported_field, verdict

RESPONSE_LIMIT_BYTES = 16 << 20
_FAILURES = (OpenAIError, StreamBroken, OverLong, ValueError, RecursionError, TimeoutError, httpx2.HTTPError)
"""`ValueError` and `RecursionError` come from JSON that is broken or too deep: the library lets them through."""

RETRY_AFTER_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the model is. The key is sent in the header and stands nowhere else. Times in seconds."""

    name: str
    base_url: str | None = None
    api_key: str = ""
    proxy: str = ""
    """A company's proxy on the way, as a URL. What the environment says of proxies is not looked at."""
    window_tokens: int = 128_000
    max_output_tokens: int = 8_000
    prices: Prices = field(default_factory=Prices)
    attempts: int = 5
    backoff_s: float = 0.5
    connect_timeout_s: float = 10.0
    silence_timeout_s: float = 120.0
    answer_timeout_s: float = 900.0
    concurrent: int = 64

    def __repr__(self) -> str:
        return f"Endpoint(name={self.name!r}, base_url={self.base_url!r})"


class OpenAIModel:
    """Implements `model.Model`. Open it on the event loop that uses it and close it with `close` or `async with`.

    At most `Endpoint.concurrent` requests at once; others wait their turn. A wish to retry later than a minute is
    not waited for: it raises `ModelUnavailable` with that wish, so that the run can let go of its worker.
    """

    is_replay = False

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        tls: ssl.SSLContext | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._endpoint = endpoint
        self._sleep = sleep
        self._jitter = jitter
        self._turns = asyncio.Semaphore(endpoint.concurrent)
        self._unsupported: set[str] = set()
        timeout = httpx2.Timeout(
            endpoint.silence_timeout_s, connect=endpoint.connect_timeout_s, pool=endpoint.answer_timeout_s
        )
        hooks = {"response": [_bound]}
        client = (
            DefaultAsyncHttpxClient(
                timeout=timeout,
                follow_redirects=False,
                event_hooks=hooks,
                proxy=endpoint.proxy or None,
                verify=tls or ssl.create_default_context(),
                trust_env=False,
            )
            if transport is None
            else httpx2.AsyncClient(timeout=timeout, follow_redirects=False, event_hooks=hooks, transport=transport)
        )
        self._client = AsyncOpenAI(
            # An empty key makes the library look into the environment; local endpoints often need none.
            api_key=endpoint.api_key or "none",
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=timeout,
            http_client=client,
        )

    @property
    def name(self) -> str:
        return self._endpoint.name

    @property
    def window_tokens(self) -> int:
        return self._endpoint.window_tokens

    @property
    def max_output_tokens(self) -> int:
        return self._endpoint.max_output_tokens

    @property
    def prices(self) -> Prices:
        return self._endpoint.prices

    async def close(self) -> None:
        await self._client.close()

    async def __aenter__(self) -> OpenAIModel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
        async with self._turns:
            return await self._answer(request, on_delta)

    async def _answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
        attempt, last = 0, "no answer"
        while attempt < self._endpoint.attempts:
            attempt += 1
            try:
                async with asyncio.timeout(self._endpoint.answer_timeout_s):
                    return await self._once(request, on_delta, attempt)
            except Unsupported as error:
                self._unsupported.add(error.field)
                attempt -= 1
                continue
            except _FAILURES as error:
                retry = verdict(error, secret=self._endpoint.api_key, model=self.name)
            last = retry.why
            if retry.after_s is not None and retry.after_s > RETRY_AFTER_LIMIT_S:
                raise ModelUnavailable(f"model {self.name}: {last}", retry_after_s=retry.after_s)
            if attempt < self._endpoint.attempts:
                await self._sleep(self._pause_s(attempt, retry))
        raise ModelUnavailable(f"model {self.name} gave no usable answer in {attempt} attempts; the last: {last}")

    def _pause_s(self, attempt: int, retry: Retry) -> float:
        if retry.after_s is not None:
            return retry.after_s
        return float(self._endpoint.backoff_s * 2 ** (attempt - 1) * (1 + self._jitter()))

    async def _once(self, request: ModelRequest, on_delta: OnDelta, attempt: int) -> Answer:
        builder = AnswerBuilder()
        try:
            stream = await self._client.post(
                "/chat/completions",
                body=self._body(request),
                cast_to=object,
                stream=True,
                stream_cls=AsyncStream[object],
            )
        except OpenAIError as error:
            field = unsupported_field(error, tuple({"stream_options", "max_tokens"} - self._unsupported))
            raise field or error from error
        try:
            if "json" in stream.response.headers.get("content-type", ""):
                on_delta(builder.add(json.loads(await stream.response.aread())))
            else:
                async for chunk in stream:
                    text = builder.add(chunk)
                    if text:
                        on_delta(text)
                    if builder.is_full:
                        break
        except OverLong:
            builder.is_full = True
        finally:
            await stream.response.aclose()
        if not builder.has_chunks and not builder.is_full:
            raise StreamBroken("the endpoint answered without a single message; is the base URL right?")
        if builder.finish_reason is None and not builder.is_full:
            raise StreamBroken("the answer broke off before its end")
        return builder.build(input_text_tokens=_input_tokens(request), attempts=attempt)

    def _body(self, request: ModelRequest) -> dict[str, object]:
        limit = "max_completion_tokens" if "max_tokens" in self._unsupported else "max_tokens"
        body: dict[str, object] = {
            "model": self._endpoint.name,
            "messages": list(request.messages),
            "stream": True,
            limit: request.max_output_tokens,
        }
        if request.tools:
            body["tools"] = list(request.tools)
        if "stream_options" not in self._unsupported:
            body["stream_options"] = {"include_usage": True}
        return body


def _input_tokens(request: ModelRequest) -> int:
    return estimate_tokens(orjson.dumps([list(request.messages), list(request.tools)]).decode())


async def _bound(response: httpx2.Response) -> None:
    """No response, error pages included, is read beyond the limit."""
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = 0
        async for data in self._stream:
            total += len(data)
            if total > RESPONSE_LIMIT_BYTES:
                raise OverLong(f"the response is longer than {RESPONSE_LIMIT_BYTES} bytes")
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()
