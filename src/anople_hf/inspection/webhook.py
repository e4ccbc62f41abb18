"""`Webhook`: tells another program each verdict by HTTP, signed, with retries, and none twice.

A thread sends, so a slow or dead receiver never holds up the line. What was delivered is noted in the results folder:
after an interruption, `--resume` sends what was not.
"""

import hashlib
import hmac
import http.client
import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from .tables import Row, append, json_line

SENT = ".webhook"
SIGNATURE = "X-Anople-Signature"
DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt."""
TIMEOUT = 10.0
"""Seconds that the receiver may take to answer."""
LATER = (408, 425, 429)
"""Statuses below 500 after which another attempt makes sense."""


class Webhook:
    """`with Webhook(...) as webhook:` sends; the end waits for what is left, until one of it cannot be delivered.

    Args:
        url: Where to; see `check_url`.
        folder: Folder of the results, which holds what was delivered.
        rows: Those of earlier runs. What was not delivered of them is sent now, unless they had no webhook.
        detector: Fingerprint that is sent along.
        secret: Signs each body; "" for no signature.
        note: Called with a line for each verdict that could not be delivered.
        delays: Seconds before each further attempt.

    Attributes:
        undelivered: How many could not be.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        rows: Sequence[Row],
        *,
        detector: str,
        secret: str = "",
        note: Callable[[str], None] = lambda message: None,
        delays: Sequence[float] = DELAYS,
    ) -> None:
        self.url, self.detector, self.secret = url, detector, secret
        self.undelivered = 0
        self._note, self._delays = note, delays
        self._sent = folder / SENT
        if self._sent.exists():
            # A last line that was cut off is no id: that verdict is sent again.
            sent = set(self._sent.read_text(encoding="utf-8").split("\n"))
        else:
            sent = {self._id(row) for row in rows}
            self._sent.write_text("".join(f"{name}\n" for name in sorted(sent)), encoding="utf-8")
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        for row in rows:
            if self._id(row) not in sent:
                self._rows.put(row)
        self._closing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._closing = True
        if kind is not None:
            self._stop.set()
        self._rows.put(None)
        self._thread.join()

    def send(self, row: Row) -> None:
        """Queue a verdict; returns at once."""
        self._rows.put(row)

    def _work(self) -> None:
        while (row := self._rows.get()) is not None:
            if self._stop.is_set():
                self.undelivered += 1
                continue
            reason, dead = self._deliver(row)
            if reason is not None:
                self.undelivered += 1
                self._note(f"webhook: {row['path']} was not delivered ({reason}); --resume tries again")
                if dead and self._closing:  # the others would wait in vain, too
                    self._stop.set()

    def _deliver(self, row: Row) -> tuple[str | None, bool]:
        """Why it could not be, or None; and whether it could be later."""
        body = json.dumps({"id": self._id(row), "detector": self.detector, **json.loads(json_line(row))}).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "anople"}
        if self.secret:
            headers[SIGNATURE] = sign(body, self.secret)
        for delay in (*self._delays, None):
            reason, again = _post(self.url, body, headers)
            if reason is None:
                append(self._sent, f"{self._id(row)}\n")
                return None, False
            if not again or delay is None or self._stop.wait(delay):
                break
        return reason, again

    def _id(self, row: Row) -> str:
        """The same at every attempt, so that a receiver can tell."""
        return hashlib.sha256("\n".join((self.detector, row["path"], row["time"])).encode()).hexdigest()[:32]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A POST that is sent elsewhere would arrive as an empty GET."""
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _post(url: str, body: bytes, headers: dict[str, str]) -> tuple[str | None, bool]:
    """Why it failed, or None; and whether another attempt makes sense."""
    try:
        with _OPENER.open(urllib.request.Request(url, body, headers), timeout=TIMEOUT):
            return None, False
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code}", error.code >= 500 or error.code in LATER
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__, True


def sign(body: bytes, secret: str) -> str:
    """The header's value: HMAC-SHA256 of the body.

    Example:
        >>> sign(b"{}", "secret")[:20]
        'sha256=77325902caca8'
    """
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def check_url(url: str) -> None:
    """Refuse what is no address, before any work is done.

    Raises:
        ValueError: Says what is expected.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--webhook {url}: expected an address such as https://line.example/verdicts.")


__all__ = ["SENT", "SIGNATURE", "Webhook", "check_url", "sign"]
