"""`shell`: a command line, run by the sandbox's shell. Free by default: the kernel and the proxy are the fence."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ringfence_sandbox.contract import Action, Ending, Exec, Outcome
from ringfence_tools.bounded import output_text
from ringfence_tools.calls import Access, ResultStatus, ToolResult
from ringfence_tools.shell_reading import accesses_of_shell
from ringfence_tools.toolbox import Acting, Arguments, SandboxTool


class ShellArguments(Arguments):
    command: Annotated[str, Field(min_length=1, max_length=1 << 20, description="The command line, for bash.")]
    timeout_s: Annotated[int, Field(ge=1, le=3600, description="Seconds until it is ended.")] = 120


class Shell(SandboxTool[ShellArguments]):
    name: ClassVar[str] = "shell"
    description: ClassVar[str] = (
        "Run a command line in the sandbox, in /workspace. Output and exit code come back. No network but for hosts "
        "that are allowed; the command is ended with everything it started when the time is over."
    )
    seals: ClassVar[bool] = True
    arguments = ShellArguments

    def accesses(self, arguments: ShellArguments) -> tuple[Access, ...]:
        return accesses_of_shell(arguments.command)

    def summary(self, arguments: ShellArguments) -> str:
        return arguments.command

    async def action(self, arguments: ShellArguments, acting: Acting) -> Action:
        return Exec(
            call_id=acting.call_id,
            fence=acting.fence,
            argv=("bash", "-c", arguments.command),
            timeout_s=float(arguments.timeout_s),
            sealed=acting.sealed,
        )

    def result(self, arguments: ShellArguments, outcome: Outcome) -> ToolResult:
        text = output_text(outcome)
        data = {
            "ending": outcome.ending.value,
            "exit_code": outcome.exit_code,
            "duration_ms": outcome.duration_ms,
            "omitted_bytes": outcome.omitted_bytes,
        }
        match outcome.ending:
            case Ending.DONE if outcome.exit_code == 0:
                return ToolResult(ResultStatus.OK, text or "(no output, exit code 0)", data)
            case Ending.DONE:
                return ToolResult(ResultStatus.FAILED, f"{text}\n[exit code {outcome.exit_code}]".lstrip("\n"), data)
            case Ending.TIMEOUT:
                note = f"[ended after {arguments.timeout_s} s, with everything it had started]"
            case Ending.LIMIT:
                note = f"[ended: limit reached: {outcome.detail}]"
            case Ending.SIGNALED:
                note = f"[ended by a signal: {outcome.detail}]"
            case Ending.REFUSED:
                note = f"[not started: {outcome.detail}]"
            case Ending.INTERRUPTED:
                note = "[interrupted: what it did is unknown]"
        return ToolResult(ResultStatus.FAILED, f"{text}\n{note}".lstrip("\n"), data)
