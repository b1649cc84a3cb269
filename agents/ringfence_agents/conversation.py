"""The conversation as the model sees it, rendered from the message rows of a run.

Rows are append-only and are the truth; what is shown is a pure function of them, so a run that is taken up again
shows its model the same words. Malformed calls are echoed in a form that strict endpoints accept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import orjson
from sqlalchemy import Connection, bindparam, insert, select

from ringfence_agents.model import Message, ModelCall, estimate_tokens
from ringfence_agents.schema import messages
from ringfence_audit.events import JsonValue
from ringfence_audit.prepared import Prepared
from ringfence_tools.calls import CallKey, RunId

MESSAGE_OVERHEAD_TOKENS = 8
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    """The task, and what Ringfence itself says to the agent."""
    PERSON = "person"
    """A person's word to the agent. Never dropped by compaction."""
    ASSISTANT = "assistant"
    TOOL = "tool"
    COMPACTION = "compaction"
    """How earlier rows are shown from here on. The latest one holds."""


@dataclass(frozen=True, slots=True)
class MessageRow:
    run: RunId
    seq: int
    turn: int
    role: Role
    body: Mapping[str, JsonValue]

    def to_row(self) -> dict[str, str | int]:
        return {
            "run": self.run,
            "seq": self.seq,
            "turn": self.turn,
            "role": self.role.value,
            "body": orjson.dumps(self.body).decode(),
        }

    @property
    def text(self) -> str:
        content = self.body.get("content")
        return content if isinstance(content, str) else ""


_SINCE = Prepared(
    select(messages)
    .where(messages.c.run == bindparam("in_run"), messages.c.seq >= bindparam("in_seq"))
    .order_by(messages.c.seq)
)
_APPEND = Prepared(insert(messages), columns=("run", "seq", "turn", "role", "body"))


def append_rows(connection: Connection, rows: Sequence[MessageRow]) -> None:
    """Store message rows. They are never changed again."""
    if rows:
        _APPEND.many(connection, [row.to_row() for row in rows])


def rows_since(connection: Connection, run: RunId, seq: int) -> tuple[MessageRow, ...]:
    """The message rows from `seq` on, in order."""
    return tuple(
        MessageRow(run, row.seq, row.turn, Role(row.role), orjson.loads(row.body))
        for row in _SINCE.all(connection, {"in_run": run, "in_seq": seq})
    )


def agent_words(connection: Connection, key: CallKey) -> str:
    """What the agent said beside a call, for the reviewer's card. Hostile text."""
    query = select(messages.c.body).where(
        messages.c.run == key.run, messages.c.turn == key.turn, messages.c.role == Role.ASSISTANT.value
    )
    body = connection.execute(query).scalar()
    return "" if body is None else str(json.loads(body).get("content", ""))


def echo_ids(calls: Sequence[ModelCall], *, turn: int) -> tuple[str, ...]:
    """The ids under which calls and their results go back to the model: its own, made unique within the turn."""
    used: set[str] = set()
    ids = []
    for index, call in enumerate(calls):
        echo = call.id or f"call_{turn}_{index}"
        while echo in used:
            echo = f"{echo}_{index}"
        used.add(echo)
        ids.append(echo)
    return tuple(ids)


def assistant_body(content: str, calls: Sequence[ModelCall], *, turn: int) -> dict[str, JsonValue]:
    return {
        "content": content,
        "calls": [
            {"id": echo, "name": call.name, "arguments": call.arguments_text}
            for echo, call in zip(echo_ids(calls, turn=turn), calls, strict=True)
        ],
    }


def tool_body(*, echo_id: str, tool: str, status: str, text: str) -> dict[str, JsonValue]:
    return {"call_id": echo_id, "tool": tool, "status": status, "content": text}


def calls_of(row: MessageRow) -> tuple[Mapping[str, str], ...]:
    """The calls of an assistant row: `id`, `name`, `arguments`, all text."""
    calls = row.body.get("calls")
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        return ()
    return tuple({key: str(value) for key, value in call.items()} for call in calls if isinstance(call, Mapping))


def render(row: MessageRow, *, text: str | None = None, arguments_limit_chars: int | None = None) -> Message:
    """One row in the OpenAI form. `text` stands in for its content where compaction says so."""
    content = row.text if text is None else text
    if row.role is Role.TOOL:
        return {"role": "tool", "tool_call_id": str(row.body["call_id"]), "content": content}
    if row.role is Role.PERSON:
        return {"role": "user", "content": f"Message from {row.body.get('author', 'a person')}: {content}"}
    if row.role is not Role.ASSISTANT:
        return {"role": row.role.value, "content": content}
    calls = calls_of(row)
    if not calls:
        return {"role": "assistant", "content": content or "(empty answer)"}
    return {
        "role": "assistant",
        "content": content or None,
        "tool_calls": [
            {
                "id": call["id"],
                "type": "function",
                "function": {
                    "name": call["name"] if _NAME.match(call["name"]) else "invalid_name",
                    "arguments": echo_arguments(call["arguments"], limit_chars=arguments_limit_chars),
                },
            }
            for call in calls
        ],
    }


def echo_arguments(text: str, *, limit_chars: int | None = None) -> str:
    """The arguments as they were where they are a JSON object, else an object that quotes them.

    Endpoints parse the arguments of earlier calls and refuse the whole request for ever where one is broken.
    """
    if limit_chars is not None and len(text) > limit_chars:
        return json.dumps({"elided": f"{len(text)} characters of arguments"})
    try:
        is_object = isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        is_object = False
    return text if is_object else json.dumps({"malformed_arguments": text[:2000]})


def message_tokens(message: Message) -> int:
    """Estimated tokens of one rendered message, from above."""
    total = MESSAGE_OVERHEAD_TOKENS
    content = message.get("content")
    if isinstance(content, str):
        total += estimate_tokens(content)
    calls = message.get("tool_calls")
    if isinstance(calls, Sequence) and not isinstance(calls, str):
        total += sum(estimate_tokens(json.dumps(call, ensure_ascii=False)) for call in calls)
    return total
