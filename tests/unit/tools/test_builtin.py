"""The built-in tools: what they refuse, what they say, where they think a path lies."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence_sandbox.contract import CallId, Ending, Outcome, Write
from ringfence_sandbox.errors import PathRefused
from ringfence_tools.bounded import TEXT_LIMIT, bounded
from ringfence_tools.builtin.files import EditFile, EditFileArguments, ReadFile, ReadFileArguments
from ringfence_tools.builtin.people import RequestAccess, RequestAccessArguments
from ringfence_tools.builtin.shell import Shell, ShellArguments
from ringfence_tools.builtin.toolset import builtin_toolbox
from ringfence_tools.calls import CallKey, Family, ResultStatus, RunId
from ringfence_tools.sandbox_paths import absolute, file_access
from ringfence_tools.toolbox import Acting, ToolRefusal, parse_arguments
from tests.fakes.counting_sandbox import CountingSandbox

CALL = CallId("run-1/1/0/n")


def acting(sandbox: CountingSandbox) -> Acting:
    return Acting(CallKey(RunId("run-1"), 1, 0), CALL, 1, sandbox, {})


@pytest.mark.parametrize("old", ["absent", "x = 1"])
async def test_an_edit_that_does_not_match_exactly_once_is_refused_with_help(old: str) -> None:
    sandbox = CountingSandbox()
    sandbox.files["/workspace/a.py"] = b"x = 1\ny = 2\nx = 1\n"
    with pytest.raises(ToolRefusal) as refused:
        await EditFile().action(EditFileArguments(path="a.py", old=old, new="z"), acting(sandbox))
    assert "a.py" in str(refused.value)
    assert ("does not occur" in str(refused.value)) == (old == "absent")
    assert sandbox.effects == []


@pytest.mark.parametrize(
    ("content", "old", "says"),
    [(b"a\r\nb\r\n", "a\nb", "CRLF"), (b"a\nb\n", "1\ta\n2\tb", "line numbers")],
)
async def test_an_edit_that_nearly_matches_is_told_what_differs(content: bytes, old: str, says: str) -> None:
    sandbox = CountingSandbox()
    sandbox.files["/workspace/a.py"] = content
    with pytest.raises(ToolRefusal, match=says):
        await EditFile().action(EditFileArguments(path="a.py", old=old, new="z"), acting(sandbox))


async def test_lines_are_numbered_as_compilers_number_them() -> None:
    sandbox = CountingSandbox()
    sandbox.files |= {"/workspace/a.txt": "a\x0cb\u2028c\r\nd\n".encode(), "/workspace/b.txt": b"a\r\nb\r\n"}
    assert (await ReadFile().read(ReadFileArguments(path="a.txt"), sandbox)).text == "1\ta\x0cb\u2028c\r\n2\td"
    assert (
        "1\ta\n2\tb\n[lines of this file end with CRLF"
        in (await ReadFile().read(ReadFileArguments(path="b.txt"), sandbox)).text
    )


@pytest.mark.parametrize("number", ["10000000000000000000000000000000", "9007199254740993", "0", "1.5", "true"])
def test_a_line_number_that_no_log_can_hold_is_refused(number: str) -> None:
    tool = builtin_toolbox().get("read_file")
    assert tool is not None
    with pytest.raises(ToolRefusal, match="start_line"):
        parse_arguments(tool, f'{{"path": "a", "start_line": {number}}}')


async def test_an_edit_writes_only_over_what_it_read() -> None:
    sandbox = CountingSandbox()
    sandbox.files["/workspace/a.py"] = b"x = 1\n"
    action = await EditFile().action(EditFileArguments(path="a.py", old="x = 1", new="x = 2"), acting(sandbox))
    assert isinstance(action, Write)
    assert action.content == b"x = 2\n"
    sandbox.files["/workspace/a.py"] = b"changed meanwhile\n"
    outcome = await sandbox.perform(action)
    assert EditFile().result(EditFileArguments(path="a.py", old="x", new="y"), outcome).status is ResultStatus.FAILED
    assert sandbox.files["/workspace/a.py"] == b"changed meanwhile\n"


async def test_reading_numbers_lines_and_says_what_is_binary() -> None:
    sandbox = CountingSandbox()
    sandbox.files |= {"/workspace/a.txt": b"one\ntwo\nthree\n", "/workspace/b.bin": b"\0\1"}
    shown = await ReadFile().read(ReadFileArguments(path="a.txt", start_line=2, end_line=9), sandbox)
    assert shown.text == "2\ttwo\n3\tthree"
    assert (await ReadFile().read(ReadFileArguments(path="b.bin"), sandbox)).status is ResultStatus.FAILED
    with pytest.raises(PathRefused):
        await ReadFile().read(ReadFileArguments(path="absent"), sandbox)


@pytest.mark.parametrize(
    ("ending", "code", "status"),
    [
        (Ending.DONE, 0, ResultStatus.OK),
        (Ending.DONE, 1, ResultStatus.FAILED),
        (Ending.TIMEOUT, None, ResultStatus.FAILED),
        (Ending.LIMIT, None, ResultStatus.FAILED),
        (Ending.REFUSED, None, ResultStatus.FAILED),
    ],
)
def test_a_shell_result_says_how_it_ended(ending: Ending, code: int | None, status: ResultStatus) -> None:
    outcome = Outcome(CALL, ending, exit_code=code, head=b"out\xff", detail="memory")
    result = Shell().result(ShellArguments(command="x"), outcome)
    assert result.status is status
    assert "out" in result.text


@pytest.mark.parametrize("resource", ["http://", "[::1", "a b", "host:99999", "\u200b"])
def test_a_host_that_cannot_be_read_is_refused(resource: str) -> None:
    arguments = RequestAccessArguments(kind="host", resource=resource, reason="")
    with pytest.raises(ToolRefusal):
        RequestAccess().accesses(arguments)


def test_a_requested_url_becomes_its_host_and_port() -> None:
    arguments = RequestAccessArguments(kind="host", resource="https://Index.Example./simple/", reason="")
    (access,) = RequestAccess().accesses(arguments)
    assert (access.family, access.resource) == (Family.NETWORK, "index.example:443")


@given(st.text(min_size=1, max_size=200))
def test_no_path_is_inside_that_leaves_the_workspace(path: str) -> None:
    access = file_access(path, write=True)
    if access.attributes["outside"] is False:
        resolved = PurePosixPath(access.resource)
        assert ".." not in resolved.parts
        assert resolved.is_relative_to("/workspace") or resolved.parts[1] in ("tmp", "home")


@pytest.mark.parametrize("path", ["/etc/shadow", "../../etc/shadow", "/workspace/../etc/shadow", "/workspaces/x"])
def test_a_path_outside_is_marked_so(path: str) -> None:
    assert file_access(path, write=False).attributes["outside"] is True


def test_double_slashes_and_dots_do_not_hide_a_path() -> None:
    assert str(absolute("//etc/./shadow")) == "/etc/shadow"


@given(st.text(max_size=400))
def test_any_argument_text_is_parsed_or_refused(text: str) -> None:
    toolbox = builtin_toolbox()
    for name in toolbox.names():
        tool = toolbox.get(name)
        assert tool is not None
        try:
            parse_arguments(tool, text)
        except ToolRefusal as error:
            assert str(error)


def test_every_schema_is_plain_json_and_closed() -> None:
    for schema in builtin_toolbox().schemas():
        function = json.loads(json.dumps(schema))["function"]
        assert function["parameters"]["additionalProperties"] is False
        assert function["description"]


def test_bounded_text_says_how_much_is_missing() -> None:
    text = bounded("x" * (TEXT_LIMIT + 100), rest="/workspace/out.txt")
    assert len(text) < TEXT_LIMIT + 200
    assert "100 characters omitted" in text
    assert "/workspace/out.txt" in text
