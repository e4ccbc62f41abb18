"""`Sessions`: what a visitor would lose when the page is loaded again, kept for a while.

The key is made by the browser tab and known to it alone; it stands in the tab's session storage, which ends with it.
"""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

SHORTEST = 32
"""Letters of a key that nobody guesses."""
MOST = 200
"""Visitors remembered at a time."""


@dataclass
class Session:
    """Of one browser tab.

    Attributes:
        visitor: The detector and the products, see `desk.Visitor`.
        judging: The review and what works for it, see `judging.Judging`; None before there is one.
        seen: When the page last asked, by the monotonic clock.
    """

    visitor: Any
    judging: Any = None
    seen: float = 0.0


class Sessions:
    """Of all visitors.

    Args:
        seconds: How long one is kept after the page last asked.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._kept: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str | None) -> Session | None:
        """What is kept for a key; None for a new one."""
        with self._lock:
            self._sweep()
            return self._kept.get(key or "")

    def keep(self, key: str | None, visitor: Any, judging: Any) -> None:
        """Keep what a visitor has by now; a key that could be guessed keeps nothing."""
        now = time.monotonic()
        if judging is not None:
            judging.review.seen = now
        if not key or len(key) < SHORTEST:
            return
        with self._lock:
            self._kept[key] = Session(visitor, judging, now)
            self._kept.move_to_end(key)
            self._sweep()

    def _sweep(self) -> None:
        oldest = time.monotonic() - self.seconds
        while self._kept and (len(self._kept) > MOST or next(iter(self._kept.values())).seen < oldest):
            _, gone = self._kept.popitem(last=False)
            if gone.judging is not None:
                gone.judging.review.close()


__all__ = ["Session", "Sessions"]
