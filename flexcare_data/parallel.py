"""Process parts of a table in parallel, or prefetch them in a thread, and return them in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue
from threading import Event, Thread
from typing import Any, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def map_in_order(work: Callable[[Part], Result], parts: Iterable[Part], threads: int) -> Iterator[Result]:
    """Apply ``work`` to each part in ``threads`` threads; results in order, at most ``threads`` parts in memory.

    Example:
        >>> list(map_in_order(len, ["a", "bb", "ccc"], threads=2))
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


def prefetch(parts: Generator[Part, Any, Any], n_ahead: int) -> Iterator[Part]:
    """Produce ``parts`` in a separate thread, at most ``n_ahead`` before the reader.

    Exceptions of the thread are raised here. A reader that stops early ends the thread.
    """
    queue: Queue[tuple[Part | None, BaseException | None]] = Queue(maxsize=n_ahead)
    stop = Event()

    def make() -> None:
        try:
            for part in parts:
                queue.put((part, None))
                if stop.is_set():
                    parts.close()
            queue.put((None, None))
        except BaseException as error:
            queue.put((None, error))

    thread = Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            part, error = queue.get()
            if error is not None:
                raise error
            if part is None:
                return
            yield part
    finally:
        stop.set()
        while thread.is_alive():
            while not queue.empty():
                queue.get_nowait()
            thread.join(0.01)
