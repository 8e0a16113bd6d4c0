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
    """A `Progress` that rewrites one line ("1,200 of 40,000 tokens, 640 tokens/s"); None unless a terminal watches."""
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
        stream.write(f"\r{done:,} of {total:,} {unit}, {rate:,.0f} {unit}/s\033[K{end}")
        stream.flush()

    return show
