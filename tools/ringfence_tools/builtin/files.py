"""Files of the sandbox: `read_file`, `write_file`, `edit_file`, `search`, `list_files`."""

from __future__ import annotations

import difflib
import hashlib
import re
from pathlib import PurePosixPath
from typing import Annotated, ClassVar

from pydantic import Field

from ringfence_sandbox.contract import Action, Ending, Outcome, Sandbox, Write
from ringfence_tools.bounded import bounded
from ringfence_tools.calls import Access, ResultStatus, ToolResult
from ringfence_tools.sandbox_paths import absolute, file_access, shown
from ringfence_tools.toolbox import Acting, Arguments, ReadTool, SandboxTool, ToolRefusal, failed

_LINE_NUMBER = re.compile(r"^[0-9]+\t", re.MULTILINE)
READ_LIMIT_BYTES = 4 << 20
LINES_LIMIT = 1 << 31
Path = Annotated[str, Field(min_length=1, max_length=4096, description="Relative to /workspace, or absolute.")]
Content = Annotated[str, Field(max_length=4 << 20)]


class ReadFileArguments(Arguments):
    path: Path
    start_line: Annotated[int, Field(ge=1, le=LINES_LIMIT, description="First line, from 1.")] | None = None
    end_line: Annotated[int, Field(ge=1, le=LINES_LIMIT, description="Last line, included.")] | None = None


class ReadFile(ReadTool[ReadFileArguments]):
    name: ClassVar[str] = "read_file"
    description: ClassVar[str] = "Read a text file. Lines come back numbered. Long files: ask for a range of lines."
    arguments = ReadFileArguments

    def accesses(self, arguments: ReadFileArguments) -> tuple[Access, ...]:
        return (file_access(arguments.path, write=False),)

    async def read(self, arguments: ReadFileArguments, sandbox: Sandbox) -> ToolResult:
        path = absolute(arguments.path)
        content = await sandbox.read(path, limit_bytes=READ_LIMIT_BYTES)
        if b"\0" in content.data[:8192]:
            return failed(f"{shown(path)} is a binary file of {content.size_bytes} bytes", sha256=content.sha256)
        lines, is_crlf = _lines(content.data)
        start, end = arguments.start_line or 1, min(arguments.end_line or len(lines), len(lines))
        numbered = "\n".join(f"{number}\t{lines[number - 1]}" for number in range(start, end + 1))
        if content.size_bytes > len(content.data):
            numbered += f"\n[only the first {len(content.data)} of {content.size_bytes} bytes were read]"
        if is_crlf:
            numbered += "\n[lines of this file end with CRLF, \\r\\n]"
        text = bounded(numbered) or f"({shown(path)} has no lines in this range; it has {len(lines)} lines)"
        return ToolResult(ResultStatus.OK, text, {"sha256": content.sha256, "size_bytes": content.size_bytes})


class WriteFileArguments(Arguments):
    path: Path
    content: Annotated[Content, Field(description="The whole new content.")]


class WriteFile(SandboxTool[WriteFileArguments]):
    name: ClassVar[str] = "write_file"
    description: ClassVar[str] = "Create a file or replace its whole content. Folders are made as needed."
    arguments = WriteFileArguments

    def accesses(self, arguments: WriteFileArguments) -> tuple[Access, ...]:
        return (file_access(arguments.path, write=True),)

    def summary(self, arguments: WriteFileArguments) -> str:
        return f"{arguments.path} ({len(arguments.content.encode())} bytes)"

    async def action(self, arguments: WriteFileArguments, acting: Acting) -> Action:
        return Write(acting.call_id, acting.fence, absolute(arguments.path), arguments.content.encode())

    def result(self, arguments: WriteFileArguments, outcome: Outcome) -> ToolResult:
        content = arguments.content.encode()
        return _written(outcome, absolute(arguments.path), f"wrote {len(content)} bytes to", content)


class EditFileArguments(Arguments):
    path: Path
    old: Annotated[Content, Field(min_length=1, description="The exact text to replace; it must occur once.")]
    new: Annotated[Content, Field(description="The text to put in its place.")]


class EditFile(SandboxTool[EditFileArguments]):
    name: ClassVar[str] = "edit_file"
    description: ClassVar[str] = (
        "Replace one exact piece of a file. `old` must occur exactly once, white space included; add lines around it "
        "until it does."
    )
    arguments = EditFileArguments

    def accesses(self, arguments: EditFileArguments) -> tuple[Access, ...]:
        return (file_access(arguments.path, write=True),)

    def summary(self, arguments: EditFileArguments) -> str:
        return f"{arguments.path} ({len(arguments.old)} → {len(arguments.new)} characters)"

    async def action(self, arguments: EditFileArguments, acting: Acting) -> Action:
        path = absolute(arguments.path)
        content = await acting.sandbox.read(path, limit_bytes=READ_LIMIT_BYTES)
        if content.size_bytes > len(content.data):
            raise ToolRefusal(f"{shown(path)} is larger than {READ_LIMIT_BYTES} bytes; use shell to change it")
        old, new = arguments.old.encode(), arguments.new.encode()
        count = content.data.count(old)
        if count != 1:
            raise ToolRefusal(_why_not_once(shown(path), content.data, arguments.old, count))
        return Write(
            acting.call_id,
            acting.fence,
            path,
            content.data.replace(old, new),
            expected_sha256=hashlib.sha256(content.data).hexdigest(),
        )

    def result(self, arguments: EditFileArguments, outcome: Outcome) -> ToolResult:
        return _written(outcome, absolute(arguments.path), "edited", None)


class SearchArguments(Arguments):
    pattern: Annotated[str, Field(min_length=1, max_length=1000, description="A Python regular expression.")]
    path: Path = "."


class Search(ReadTool[SearchArguments]):
    name: ClassVar[str] = "search"
    description: ClassVar[str] = "Find lines that match a regular expression in the files below a path."
    arguments = SearchArguments

    def accesses(self, arguments: SearchArguments) -> tuple[Access, ...]:
        return (file_access(arguments.path, write=False),)

    async def read(self, arguments: SearchArguments, sandbox: Sandbox) -> ToolResult:
        found = await sandbox.search(arguments.pattern, absolute(arguments.path))
        lines = [f"{match.path}:{match.line}: {match.text[:400]}" for match in found.matches]
        if found.is_truncated:
            lines.append("[there are more: narrow the pattern or the path]")
        return ToolResult(ResultStatus.OK, bounded("\n".join(lines)) or "(no line matches)", {"count": len(lines)})


class ListFilesArguments(Arguments):
    path: Path = "."


class ListFiles(ReadTool[ListFilesArguments]):
    name: ClassVar[str] = "list_files"
    description: ClassVar[str] = "List files and folders below a path, three levels deep."
    arguments = ListFilesArguments

    def accesses(self, arguments: ListFilesArguments) -> tuple[Access, ...]:
        return (file_access(arguments.path, write=False),)

    async def read(self, arguments: ListFilesArguments, sandbox: Sandbox) -> ToolResult:
        listing = await sandbox.list(absolute(arguments.path), depth=3)
        lines = [f"{entry.path}{'/' if entry.kind == 'directory' else ''}" for entry in listing.entries]
        if listing.is_truncated:
            lines.append("[there are more: list a folder below]")
        return ToolResult(ResultStatus.OK, bounded("\n".join(lines)) or "(empty)", {"count": len(lines)})


def _written(outcome: Outcome, path: PurePosixPath, did: str, content: bytes | None) -> ToolResult:
    if outcome.ending is Ending.DONE:
        digest = {} if content is None else {"sha256": hashlib.sha256(content).hexdigest()}
        return ToolResult(ResultStatus.OK, f"{did} {shown(path)}", {"path": str(path), **digest})
    return failed(f"{shown(path)} was not written: {outcome.detail or outcome.ending.value}", path=str(path))


def _lines(data: bytes) -> tuple[list[str], bool]:
    """Lines as compilers and test runners number them, and whether all of them end with CRLF."""
    text = data.decode(errors="replace")
    parts = text.removesuffix("\n").split("\n") if text else []
    is_crlf = text.count("\r\n") > 0 and text.count("\r\n") == text.count("\n")
    return ([part.removesuffix("\r") for part in parts] if is_crlf else parts), is_crlf


def _why_not_once(path: str, data: bytes, old: str, count: int) -> str:
    text = data.decode(errors="replace")
    if count > 1:
        needle = old.split("\n", 1)[0]
        places = [str(number) for number, line in enumerate(text.splitlines(), 1) if needle in line][:20]
        return f"`old` occurs {count} times in {path} (near lines {', '.join(places)}); add lines around it"
    if old.replace("\r\n", "\n").replace("\n", "\r\n") in text:
        return f"`old` does not occur in {path}: its lines end with CRLF, so write \\r\\n in `old` and in `new`"
    unnumbered = _LINE_NUMBER.sub("", old)
    if unnumbered != old and unnumbered in text:
        return f"`old` does not occur in {path}: leave out the line numbers that `read_file` puts in front"
    first = next((line for line in old.splitlines() if line.strip()), "")
    close = difflib.get_close_matches(first, text.splitlines()[:20_000], n=3, cutoff=0.6) if len(first) < 400 else []
    hint = "; lines that look alike: " + " | ".join(line.strip()[:120] for line in close) if close else ""
    return f"`old` does not occur in {path}; it must match exactly, white space included{hint}"
