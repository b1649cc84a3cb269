"""What people are told of a card: the exact action, why, until when, and where to decide. Pure.

A message never decides anything: its link opens the card, and deciding needs a log-in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage

from ringfence.escaping import line, visible
from ringfence.render import span_of_time
from ringfence.voting import card_of
from ringfence_tools.card import needs_of
from ringfence_tools.escalations import Escalation

RUNS_SHOWN = 1_500


@dataclass(frozen=True, slots=True)
class Notice:
    """One card as messages tell it. All text is safe to show in one piece; `runs` keeps its lines."""

    number: int
    headline: str
    runs: str
    findings: tuple[str, ...]
    needs: str
    task: str
    denies_in: str
    link: str


def notice_of(found: Escalation, *, link: str, now_us: int) -> Notice:
    card = card_of(found)
    runs = "\n".join(visible(text) for text in card.runs)
    more = f"\n… {len(runs) - RUNS_SHOWN} more characters: open the card" if len(runs) > RUNS_SHOWN else ""
    return Notice(
        number=found.id,
        headline=line(card.headline, width=120),
        runs=runs[:RUNS_SHOWN] + more,
        findings=tuple(f"{one.code.value}: {line(one.summary, width=200)}" for one in card.findings),
        needs=line(needs_of(found.terms), width=200),
        task=line(card.task, width=300),
        denies_in=span_of_time((found.expires_at - now_us) / 1e6),
        link=link,
    )


def text_of(notice: Notice) -> str:
    """Plain text, for e-mail."""
    parts = [
        f"E-{notice.number}  {notice.headline}",
        f"needs {notice.needs} · denies in {notice.denies_in}",
        "",
        "RUNS",
        notice.runs,
        "",
        *(f"! {one}" for one in notice.findings),
        f"task: {notice.task}",
        f"decide: {notice.link}",
    ]
    return "\n".join(parts)


def slack_body(notices: Sequence[Notice]) -> bytes:
    """A Slack-compatible message; `<`, `>` and `&` are escaped, so that nothing becomes a link or a mention."""
    return json.dumps({"text": "\n\n".join(_slack(one) for one in notices), "unfurl_links": False}).encode()


def _slack(notice: Notice) -> str:
    def plain(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "'")

    found = "".join(f"\n⚠ {plain(one)}" for one in notice.findings)
    head = f"*E-{notice.number}* {plain(notice.headline)} · needs {plain(notice.needs)} · denies in {notice.denies_in}"
    return f"{head}\n```{plain(notice.runs)}```{found}\n<{notice.link}|Look at it and decide>"


def webhook_body(notices: Sequence[Notice]) -> bytes:
    cards = [
        {
            "escalation": one.number,
            "headline": one.headline,
            "runs": one.runs,
            "findings": list(one.findings),
            "needs": one.needs,
            "task": one.task,
            "link": one.link,
        }
        for one in notices
    ]
    return json.dumps({"type": "escalation.waiting", "cards": cards}, ensure_ascii=True).encode()


def signed_headers(body: bytes, *, message: str, timestamp_s: int, secret: str) -> dict[str, str]:
    """Standard Webhooks (standardwebhooks.com): HMAC-SHA256 over `id.timestamp.body`. The id is the same at every
    retry, so that a receiver can drop what it has, and the timestamp lets it refuse what is old."""
    signed = f"{message}.{timestamp_s}.".encode() + body
    mac = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": message,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"v1,{mac}",
    }


def mail(notices: Sequence[Notice], *, sender: str, to: Sequence[str], message: str) -> EmailMessage:
    found = EmailMessage()
    first = notices[0]
    more = f" and {len(notices) - 1} more" if len(notices) > 1 else ""
    found["Subject"] = f"E-{first.number} waits{more}: {first.headline}"[:200]
    found["From"] = sender
    found["To"] = ", ".join(to)
    found["Message-ID"] = f"<{message}@{sender.rpartition('@')[2]}>"
    found.set_content("\n\n\n".join(text_of(one) for one in notices))
    return found
