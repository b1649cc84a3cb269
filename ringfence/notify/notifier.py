"""Tells people of cards that wait: looks, claims, sends, and tries again, beside the server.

One row a card and route is the truth. A row is claimed by a conditional update before anything is sent, so that of
several replicas one sends; a process that dies in between leaves a claim that runs out, and the message goes out once
more under the same id. What is decided before it was due is never sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from ringfence.api.house import House
from ringfence.errors import RingfenceError
from ringfence.notify import messages, sending
from ringfence.notify.routes import NotifyFile, Route, secret_of
from ringfence.notify.schema import notifications
from ringfence_agents.schema import runs
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.port import Transaction
from ringfence_tools import escalations
from ringfence_tools.calls import EscalationId
from ringfence_tools.clock import micros
from ringfence_tools.escalations import Escalation

LOOK_S = 2.0
CLAIM_US = 60 * 1_000_000
LAST_ATTEMPT = 12
FIRST_WAIT_S, LONGEST_WAIT_S = 5, 1800
_LOG = logging.getLogger("ringfence.notify")


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes out as one message."""

    route: Route
    cards: tuple[Escalation, ...]
    attempts: int

    @property
    def message(self) -> str:
        """The same at every attempt."""
        return f"msg-{self.route.name}-" + "-".join(str(card.id) for card in self.cards[:20])


class Notifier:
    def __init__(self, house: House, file: NotifyFile) -> None:
        self._house = house
        self._file = file
        self._told: dict[str, int] = {}

    async def run(self) -> None:
        """Look and send until cancelled. A database that is away is waited for."""
        while self._file.routes:
            with contextlib.suppress(LogUnavailable):
                await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> int:
        """Note what is new, send what is due; returns how many messages went out."""
        await self._house.store.write(self._note)
        sent = 0
        for batch in await self._house.store.write(self._claim):
            sent += await self._send(batch)
        return sent

    def _note(self, tx: Transaction) -> None:
        """A row for every open card and route that chooses it."""
        for card, team in _open_cards(tx.connection, micros(tx.now)):
            known = select(notifications.c.route).where(notifications.c.escalation == card.id)
            held = {row.route for row in tx.connection.execute(known)}
            for route in self._file.routes:
                if route.name not in held and _chooses(route, card, team):
                    due_at = card.opened_at + route.after * 1_000_000
                    values = {"escalation": card.id, "route": route.name, "state": "waiting", "due_at": due_at}
                    tx.connection.execute(insert(notifications).values(**values))

    def _claim(self, tx: Transaction) -> list[Batch]:
        now = micros(tx.now)
        batches = []
        for route in self._file.routes:
            if route.digest and now - self._told.get(route.name, 0) < route.digest * 1_000_000:
                continue
            where = (notifications.c.route == route.name) & (notifications.c.state == "waiting")
            due = tx.connection.execute(select(notifications).where(where, notifications.c.due_at <= now)).all()
            cards = {
                one.id: one for one in escalations.by_ids(tx.connection, [EscalationId(r.escalation) for r in due])
            }
            live = [row for row in due if cards[row.escalation].is_open(now)]
            for row in due:
                state = "waiting" if row in live else "dropped"
                change = update(notifications).where(where, notifications.c.escalation == row.escalation)
                tx.connection.execute(change.values(state=state, due_at=now + CLAIM_US))
            groups = [live] if route.digest and live else [[row] for row in live]
            batches += [
                Batch(route, tuple(cards[row.escalation] for row in group), max(row.attempts for row in group))
                for group in groups
            ]
        return batches

    async def _send(self, batch: Batch) -> bool:
        error = ""
        try:
            await asyncio.to_thread(self._carry, batch)
            self._told[batch.route.name] = self._house.now_us()
        except RingfenceError as failed:
            error = failed.message
            _LOG.warning("route %s: %s", batch.route.name, error)

        def note(tx: Transaction) -> None:
            where = (notifications.c.route == batch.route.name) & notifications.c.escalation.in_(
                [card.id for card in batch.cards]
            )
            now, attempts = micros(tx.now), batch.attempts + 1
            if not error:
                values: dict[str, str | int] = {"state": "sent", "sent_at": now, "attempts": attempts, "error": ""}
            else:
                wait_s = min(FIRST_WAIT_S * 2**batch.attempts, LONGEST_WAIT_S)
                state = "failed" if attempts >= LAST_ATTEMPT else "waiting"
                values = {"state": state, "attempts": attempts, "error": error, "due_at": now + wait_s * 1_000_000}
            tx.connection.execute(update(notifications).where(where).values(**values))

        await self._house.store.write(note)
        return not error

    def _carry(self, batch: Batch) -> None:
        route, base = batch.route, self._house.origin.text
        now_us = self._house.now_us()
        notices = [messages.notice_of(card, link=f"{base}/inbox/{card.id}", now_us=now_us) for card in batch.cards]
        if route.webhook is not None:
            body = messages.webhook_body(notices)
            secret = secret_of(route.secret)
            headers = messages.signed_headers(body, message=batch.message, timestamp_s=int(time.time()), secret=secret)
            sending.post(route.webhook, body, headers)
        elif route.slack is not None:
            sending.post(route.slack, messages.slack_body(notices), {"Content-Type": "application/json"})
        elif self._file.smtp is not None:
            mail = messages.mail(notices, sender=self._file.smtp.sender, to=route.email, message=batch.message)
            sending.send_mail(self._file.smtp, mail)


def _chooses(route: Route, card: Escalation, team: str) -> bool:
    asked = {*card.terms.any_of, *card.terms.all_of}
    return (not route.team or route.team == team) and (not route.groups or bool(asked & set(route.groups)))


def _open_cards(connection: Connection, now_us: int) -> Sequence[tuple[Escalation, str]]:
    found = escalations.open_ones(connection, now_us)
    names = {card.key.run for card in found}
    rows = connection.execute(select(runs.c.id, runs.c.team).where(runs.c.id.in_(names))) if names else ()
    teams = {row.id: row.team for row in rows}
    return [(card, teams.get(card.key.run, "")) for card in found]
