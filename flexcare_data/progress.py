"""A line on the terminal that says how far a long build is; nothing where nobody watches (logs, pipes)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do, as often as one likes."""

_SECONDS_BETWEEN_LINES = 0.5


def meter(unit: str, stream: TextIO | None = None) -> Progress | None:
    """A `Progress` that rewrites one line; None unless a terminal watches.

    The line holds what is done, what there is to do, the rate and the time left: "1,200 of 40,000 images, 64 images/s,
    10:06 left"; bytes are told as MB.
    """
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        return None
    started, shown = time.monotonic(), 0.0

    def show(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < _SECONDS_BETWEEN_LINES and done < total:
            return
        shown = now
        rate = done / max(now - started, 1e-9)
        end = "\n" if done >= total else ""
        stream.write(f"\r{line(unit, done, total, rate)}\033[K{end}")
        stream.flush()

    return show


def line(unit: str, done: int, total: int, rate: float) -> str:
    """Text of the line; ``rate`` in units per second.

    Example:
        >>> line("images", 1200, 40_000, 64.0)
        '1,200 of 40,000 images, 64 images/s, 10:06 left'
        >>> line("bytes", 250_000_000, 1_250_000_000, 50e6)
        '250 of 1,250 MB, 50 MB/s, 0:20 left'
    """
    if unit == "bytes":
        unit, done, total, rate = "MB", done // 1_000_000, total // 1_000_000, rate / 1e6
    left = f", {clock((total - done) / rate)} left" if rate > 0 and done < total else ""
    return f"{done:,} of {total:,} {unit}, {rate:,.0f} {unit}/s{left}"


def clock(seconds: float) -> str:
    """`m:ss` or `h:mm:ss`.

    Example:
        >>> clock(606), clock(7322)
        ('10:06', '2:02:02')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
