"""Tools that reach people or end the run: `ask_human`, `request_access`, `finish`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from ringfence_tools.calls import Access, Family, ResultStatus, ToolResult
from ringfence_tools.hosts import read_host, resource_of
from ringfence_tools.sandbox_paths import absolute
from ringfence_tools.toolbox import Arguments, ControlTool, QuestionTool, ToolRefusal

Reason = Annotated[str, Field(max_length=2000)]


class AskHumanArguments(Arguments):
    question: Annotated[str, Field(min_length=1, max_length=8000)]


class AskHuman(QuestionTool[AskHumanArguments]):
    name: ClassVar[str] = "ask_human"
    description: ClassVar[str] = "Ask the people who assigned the task a question. The run waits for their answer."
    arguments = AskHumanArguments

    def accesses(self, arguments: AskHumanArguments) -> tuple[Access, ...]:
        return (Access(Family.PEOPLE, self.name),)

    def question(self, arguments: AskHumanArguments) -> str:
        return arguments.question

    def summary(self, arguments: AskHumanArguments) -> str:
        return arguments.question


class RequestAccessArguments(Arguments):
    kind: Literal["host", "path", "tool"]
    resource: Annotated[str, Field(min_length=1, max_length=2000, description="host[:port] or URL, path, tool name")]
    reason: Annotated[Reason, Field(description="Why the task needs it; a person reads this.")]


class RequestAccess(ControlTool[RequestAccessArguments]):
    """Its effect is the grant that the approval gives; the call itself only reports it."""

    name: ClassVar[str] = "request_access"
    description: ClassVar[str] = (
        "Ask for something that is not open to you: a network host, a path of the machine, a tool. A person may grant "
        "or refuse it; a refusal is final for this run."
    )
    arguments = RequestAccessArguments

    def accesses(self, arguments: RequestAccessArguments) -> tuple[Access, ...]:
        match arguments.kind:
            case "host":
                return (_host_access(arguments.resource),)
            case "path":
                path = str(absolute(arguments.resource))
                return (Access(Family.FILES, path, {"write": False, "outside": True}),)
            case "tool":
                return (Access(Family.TOOL, arguments.resource),)

    def summary(self, arguments: RequestAccessArguments) -> str:
        return f"{arguments.kind} {arguments.resource}"

    async def control(self, arguments: RequestAccessArguments) -> ToolResult:
        return ToolResult(ResultStatus.OK, f"{arguments.kind} {arguments.resource} is open to you now.")


class FinishArguments(Arguments):
    summary: Annotated[str, Field(max_length=8000, description="What was done, for the people who review it.")]
    status: Annotated[Literal["success", "failure"], Field(description="Whether the task was carried out.")]


class Finish(ControlTool[FinishArguments]):
    name: ClassVar[str] = "finish"
    description: ClassVar[str] = "End the run. The workspace as it stands becomes the patch."
    arguments = FinishArguments

    def accesses(self, arguments: FinishArguments) -> tuple[Access, ...]:
        return (Access(Family.PEOPLE, self.name),)

    def summary(self, arguments: FinishArguments) -> str:
        return f"{arguments.status}: {arguments.summary}"

    async def control(self, arguments: FinishArguments) -> ToolResult:
        ended = {"status": arguments.status, "summary": arguments.summary}
        return ToolResult(ResultStatus.OK, "The run ends here.", {"finish": ended})


def _host_access(resource: str) -> Access:
    text = resource if "://" in resource else f"//{resource}"
    try:
        parts = urlsplit(text)
        port = parts.port or (80 if parts.scheme == "http" else 443)
        host = read_host(parts.hostname or "")
    except ValueError as error:
        raise ToolRefusal(f"{resource[:200]!r} is neither a host nor a URL: {error}") from error
    return Access(Family.NETWORK, resource_of(host.ascii, port), {"method": "CONNECT"})
