"""How often a progress bar is drawn: often for a person, rarely in a log."""

import sys

FOR_EYES, FOR_LOGS = 0.1, 10.0


def seconds_between() -> float:
    """`mininterval` for tqdm: short on a terminal and in a notebook, long where stderr goes to a file or a pipe.

    Example:
        >>> seconds_between() in (FOR_EYES, FOR_LOGS)
        True
    """
    watched = sys.stderr is not None and sys.stderr.isatty()
    return FOR_EYES if watched or "ipykernel" in sys.modules else FOR_LOGS


__all__ = ["seconds_between"]
