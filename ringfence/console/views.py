"""Templates, and how values become text on a page. Everything hostile is escaped here or by Jinja, always both ways:
as HTML, and so that no character hides, reorders or imitates another.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib import resources
from pathlib import Path

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from ringfence.api.house import House
from ringfence.api.reading import model_name
from ringfence.auth.identity import Identity
from ringfence.auth.roles import EVERY_TEAM, Permission
from ringfence.console.ansi import ansi
from ringfence.escaping import line, visible
from ringfence.render import money, span_of_time
from ringfence_tools.clock import micros, moment

STATIC = Path(str(resources.files("ringfence.console").joinpath("static")))
THEMES = ("auto", "light", "dark")
_MARKS = re.compile(r"\[U\+[0-9A-F]{4,6}\]|<(?:LF|CR|TAB|[0-9]+ (?:SPACES|TABS))>")


@dataclass(frozen=True, slots=True)
class Tab:
    """A page of the navigation."""

    name: str
    path: str
    title: str


_TABS: tuple[tuple[Tab, Permission], ...] = (
    (Tab("inbox", "/inbox", "Inbox"), Permission.READ),
    (Tab("board", "/board", "Board"), Permission.READ),
    (Tab("audit", "/audit", "Audit"), Permission.READ_ENTRIES),
    (Tab("profiles", "/profiles", "Profiles"), Permission.READ),
    (Tab("operate", "/operate", "Operate"), Permission.OPERATE),
    (Tab("people", "/people", "People"), Permission.MANAGE),
)
_FOR_EVERY_TEAM = frozenset({Permission.OPERATE, Permission.MANAGE})
"""What these pages show is no single team's."""


def tabs_of(identity: Identity) -> tuple[Tab, ...]:
    """The pages that the caller may open, from the same table as everything else."""
    return tuple(
        tab
        for tab, permission in _TABS
        if identity.may(permission, EVERY_TEAM)
        or (permission not in _FOR_EVERY_TEAM and identity.may_anywhere(permission))
    )


class Views:
    """Renders templates for one house. Made once."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("ringfence.console"),
            autoescape=select_autoescape(default=True, default_for_string=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            line=lambda value, width=200: line(str(value), width=width),
            safe_lines=lambda value: visible(str(value), keeps_lines=True),
            marked=marked,
            ansi=ansi,
            model_name=model_name,
            pretty=pretty,
            told=told,
            money=money,
            span=lambda microseconds: span_of_time(microseconds / 1_000_000),
        )
        self._environment.globals.update(EVERY_TEAM=EVERY_TEAM, Permission=Permission, moment=moment)

    @cached_property
    def version(self) -> str:
        """Changes with any static file, so that browsers may keep them for ever."""
        found = hashlib.sha256()
        for path in sorted(STATIC.iterdir()):
            found.update(path.name.encode() + path.read_bytes())
        return found.hexdigest()[:12]

    def page(
        self,
        request: Request,
        template: str,
        values: Mapping[str, object],
        *,
        identity: Identity | None,
        status: int = 200,
    ) -> HTMLResponse:
        house = request.app.state.house
        assert isinstance(house, House)  # noqa: S101 put there by `app.create_app`
        theme = request.cookies.get("theme", "auto")
        text = self._environment.get_template(template).render(
            **values,
            me=identity,
            tabs=tabs_of(identity) if identity is not None else (),
            theme=theme if theme in THEMES else "auto",
            version=self.version,
            verdict=house.verdicts.last,
            now_us=house.now_us(),
            when=lambda at: when(at, house.now_us()),
            until=lambda at: until(at, house.now_us()),
            path=request.url.path,
        )
        return HTMLResponse(text, status)


def when(at: int | datetime, now_us: int) -> Markup:
    """`3m20s ago`, with the exact time where the pointer rests; scripts keep it fresh."""
    at_us = micros(at) if isinstance(at, datetime) else at
    exact = moment(at_us).strftime("%Y-%m-%d %H:%M:%S UTC")
    return _time(at_us, exact, f"{span_of_time((now_us - at_us) / 1e6)} ago", "ago")


def until(at: int, now_us: int) -> Markup:
    exact = moment(at).strftime("%Y-%m-%d %H:%M:%S UTC")
    return _time(at, exact, span_of_time((at - now_us) / 1e6), "left")


def _time(at_us: int, exact: str, text: str, kind: str) -> Markup:
    return Markup('<time datetime="{}" title="{}" data-{}="{}">{}</time>').format(
        moment(at_us).isoformat(), exact, kind, at_us // 1000, text
    )


def marked(text: str) -> Markup:
    """Text of a card, made safe once more, with what stands for a hidden character set off."""
    text = visible(text)
    parts: list[Markup] = []
    at = 0
    for found in _MARKS.finditer(text):
        parts += [escape(text[at : found.start()]), Markup("<mark>{}</mark>").format(found[0])]
        at = found.end()
    return Markup("").join([*parts, escape(text[at:])])


def pretty(data: Mapping[str, object]) -> str:
    """An entry's data as people read it, everything beyond ASCII spelled out."""
    return json.dumps(data, indent=2, ensure_ascii=True, sort_keys=True)


_TOLD = (
    "what",
    "tool",
    "status",
    "state",
    "verdict",
    "action",
    "host",
    "port",
    "reason",
    "detail",
    "escalation",
    "grant",
)


def told(data: Mapping[str, object]) -> str:
    """One line on what an entry says. Hostile: `line` it."""
    decision = data.get("decision")
    effect = [f"decision={decision.get('effect')}"] if isinstance(decision, Mapping) and decision.get("effect") else []
    words = [f"{name}={value}" for name in _TOLD if (value := data.get(name)) not in (None, "", [])]
    return " ".join([*words, *effect])
