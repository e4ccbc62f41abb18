"""Waits for what happens in the background."""

import time


def until(true, seconds=60):
    """Return as soon as `true()` holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
