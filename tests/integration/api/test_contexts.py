"""The command line against a server: the same words as on the machine itself, and nothing done in the wrong place."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from ringfence.api.app import create_app
from ringfence.api.house import Origin
from ringfence.auth import tokens
from ringfence.auth.roles import Permission
from ringfence.boundary import run_at_boundary
from ringfence.cli import app
from ringfence.demo.seed import seed
from ringfence.exits import Exit
from ringfence.local_store import open_store
from ringfence.settings import Settings
from ringfence_tools import escalations
from ringfence_tools.calls import EscalationId
from tests.integration.api.world import HARMLESS, HIDING, house_at


@dataclass
class Far:
    """A server over a data set, and the folders of this machine."""

    url: str
    token: str
    home: Path
    config: Path

    def command(self, *words: str, given: str = "", is_local: bool = False) -> Result:
        environment = {"RINGFENCE_HOME": str(self.home), "RINGFENCE_CONFIG": str(self.config)}
        if is_local:
            environment["RINGFENCE_CONTEXT"] = "local"
        return CliRunner().invoke(app, list(words), input=given, env=environment)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    home, config = tmp_path / "home", tmp_path / "config"
    settings = Settings(home=home, config=config)
    asyncio.run(seed(settings))
    with socket.socket() as listener, open_store(settings) as store:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        origin = Origin("http", "127.0.0.1", listener.getsockname()[1])
        scopes = list(Permission)
        made = asyncio.run(
            store.write(lambda tx: tokens.create(tx, "ben", by="system:test", scopes=scopes, label="t", days=1))
        )
        house = replace(house_at(home, store), origin=origin)
        server = uvicorn.Server(uvicorn.Config(create_app(house), log_config=None, access_log=False))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        yield Far(origin.text, str(made), home, config)
        server.should_exit = True
        thread.join(20)


def refusal(result: Result, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """What a person reads of an error that a command raised."""
    assert result.exception is not None
    error = result.exception

    def again() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_at_boundary(again, argv=[])
    return int(str(ended.value.code)), capsys.readouterr().err


def test_a_wrong_token_leaves_no_context(far: Far, capsys: pytest.CaptureFixture[str]) -> None:
    result = far.command("login", far.url, "--token-stdin", given=f"rf_{'a' * 12}_{'b' * 43}\n")
    code, said = refusal(result, capsys)
    assert code == Exit.REFUSED
    assert "token" in said
    assert not (far.config / "contexts.json").exists()


def test_no_password_goes_to_a_server_in_the_clear(far: Far, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refusal(far.command("login", "http://ringfence.example.org"), capsys)
    assert (code, "in the clear" in said) == (Exit.USAGE, True)


def test_a_command_that_knows_only_this_machine_does_nothing_in_a_servers_context(
    far: Far, capsys: pytest.CaptureFixture[str]
) -> None:
    assert far.command("login", far.url, "--token-stdin", given=far.token).exit_code == 0
    code, said = refusal(far.command("stop", "--all", "--reason", "x"), capsys)
    assert (code, "context use local" in said) == (Exit.USAGE, True)


def test_the_server_and_the_machine_say_the_same(far: Far, capsys: pytest.CaptureFixture[str]) -> None:
    result = far.command("login", far.url, "--token-stdin", given=far.token)
    assert result.exit_code == 0, result.output
    assert ((far.config / "contexts.json").stat().st_mode & 0o077) == 0
    assert far.token not in result.output
    for words in (
        ("review", "show", f"E-{HIDING}"),
        ("review", "show", "E-8", "--json"),
        ("review", "show", "E-4", "--json"),
    ):
        here, there = far.command(*words, is_local=True), far.command(*words)
        assert (there.exit_code, there.output) == (0, here.output), repr(there.exception)
    listed = [json.loads(line) for line in far.command("review", "list", "--json").output.splitlines()]
    assert {one["escalation"] for one in listed} == {HARMLESS, HIDING, 8}
    code, said = refusal(far.command("review", "approve", f"E-{HIDING}"), capsys)
    assert (code, "findings that you have not read" in said) == (Exit.REFUSED, True)
    approved = far.command("review", "approve", f"E-{HARMLESS}")
    assert "approved" in approved.output
    with open_store(Settings(home=far.home, config=far.config)) as store:
        found = store.read_now(lambda c: escalations.votes_of(c, EscalationId(HARMLESS)))
    assert [one.person for one in found] == ["ben"]
    assert far.command("context", "use", "local").exit_code == 0
    assert "local" in far.command("context", "list").output
