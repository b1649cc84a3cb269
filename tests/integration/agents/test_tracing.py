"""What the environment asks LangGraph to report elsewhere is not reported: it would pass neither gate nor log."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.langchain import wait_for_all_tracers
from langsmith.utils import get_env_var

from ringfence_agents.errors import ModelRefused
from ringfence_agents.runs import RunState
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.integration.agents.house import RUN, House


@dataclass
class Collector:
    url: str = ""
    paths: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A trace collector on loopback that the environment names, as a developer's shell often does."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            found.paths.append(self.path)
            self.send_response(202)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TRACING", "true"), ("API_KEY", "lsv2_pt_example"), ("ENDPOINT", found.url)):
            patch.setenv(f"LANGSMITH_{name}", value)
        get_env_var.cache_clear()  # type: ignore[attr-defined]  # its overloads hide the cache
        yield found
    get_env_var.cache_clear()  # type: ignore[attr-defined]  # its overloads hide the cache
    server.shutdown()
    server.server_close()


async def test_no_run_is_reported_to_a_collector_of_traces(tmp_path: Path, collector: Collector) -> None:
    house = House.build(tmp_path)
    with house.store:
        await house.open()
        answers = [says("look", call("shell", {"command": "ls"})), finishes()]
        assert await house.runner(ScriptedModel(answers)).drive(RUN) is RunState.FINISHED
    wait_for_all_tracers()
    assert collector.paths == []


async def test_nor_is_what_ended_one(tmp_path: Path, collector: Collector) -> None:
    house = House.build(tmp_path)
    with house.store:
        await house.open()
        assert await house.runner(ScriptedModel([ModelRefused("HTTP 401", fix="-")])).drive(RUN) is RunState.FAILED
    wait_for_all_tracers()
    assert collector.paths == []


async def test_the_collector_hears_of_what_is_not_ours(collector: Collector) -> None:
    """Or the tests above could not fail."""
    await RunnableLambda(str).ainvoke("x")
    wait_for_all_tracers()
    assert any("/runs" in path for path in collector.paths)
