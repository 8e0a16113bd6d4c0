"""Parts of a table worked on side by side, and handed on in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def ahead(work: Callable[[Part], Result], parts: Iterable[Part], threads: int) -> Iterator[Result]:
    """``work`` of each part, in order, worked on by ``threads`` at a time: no more parts than these are in memory.

    Example:
        >>> list(ahead(len, ["a", "bb", "ccc"], threads=2))
        [1, 2, 3]
    """
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[Result]] = deque()
        for part in parts:
            running.append(pool.submit(work, part))
            if len(running) >= threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
