"""Carries a message out: HTTPS without redirects, or SMTP. Blocks; call it in a thread. Raises `NotSent`."""

from __future__ import annotations

import smtplib
import ssl
import urllib.error
import urllib.request
from email.message import EmailMessage

from ringfence.errors import Unavailable
from ringfence.notify.routes import Smtp, secret_of

WITHIN_S = 10.0


class NotSent(Unavailable):
    """Nobody took the message; it is tried again."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        """What was meant for one address is not handed to another."""
        return


def post(url: str, body: bytes, headers: dict[str, str]) -> None:
    opener = urllib.request.build_opener(_NoRedirects())
    request = urllib.request.Request(url, body, headers)  # noqa: S310 https or loopback, as notify.yaml is checked
    try:
        with opener.open(request, timeout=WITHIN_S) as answer:
            answer.read(10_000)
    except urllib.error.HTTPError as error:
        raise NotSent(f"the receiver answered {error.code}") from error
    except (OSError, ValueError) as error:
        raise NotSent(f"the receiver does not answer ({type(error).__name__})") from error


def send_mail(smtp: Smtp, message: EmailMessage) -> None:
    try:
        with smtplib.SMTP(smtp.host, smtp.port, timeout=WITHIN_S) as server:
            if smtp.tls == "required":
                server.starttls(context=ssl.create_default_context())
            if smtp.user:
                server.login(smtp.user, secret_of(smtp.password))
            server.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise NotSent(f"the mail server did not take it ({type(error).__name__})") from error
