"""One pass over a large event table (chartevents, labevents), keeping only rows of wanted items and kept stays.

In: a `.csv` or `.csv.gz` as published, the wanted items, the kept stays. Out: batches of (stay, charttime, pair), where
a pair is a distinct (item, text), and a count for every row that is not in a batch.

Why not a general CSV reader: these two tables are most of MIMIC, three rows of four are not wanted, and the wanted
texts repeat. One compiled loop splits the fields, looks the ids up and gives equal (item, text) pairs one number, so
that values are cleaned once per distinct pair (cleaning.py) and no text column is ever held. A second thread inflates.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from queue import Queue

import numpy as np

from flexcare_data.raw import RawDataError, open_bytes
from flexcare_data.scan_loop import LINKED, NEEDED, REASONS, rehash, scan_block

BLOCK = 4 << 20
_SEAM = 1 << 12
_ROWS = 1 << 17
_LONGEST_RECORD = 64 << 20
_ITEM_SPACE = 1 << 18


@dataclass(frozen=True)
class KeptStays:
    """The kept stays as the loop reads them, sorted by hadm_id (each kept stay has its own admission).

    Times are seconds since 1970 without time zone. ``by_subject`` and ``sorted_subject`` list the rows of each
    subject: used to link labs without hadm_id by time.
    """

    hadm_id: np.ndarray
    stay_id: np.ndarray
    subject_id: np.ndarray
    intime: np.ndarray
    outtime: np.ndarray
    by_subject: np.ndarray = field(init=False)
    sorted_subject: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        order = np.argsort(self.subject_id, kind="stable")
        object.__setattr__(self, "by_subject", order)
        object.__setattr__(self, "sorted_subject", self.subject_id[order])


class PairTable:
    """The distinct (item, text) pairs met so far, numbered in order of appearance."""

    def __init__(self) -> None:
        self.slots = np.full(1 << 14, -1, np.int32)
        self.item = np.zeros(1 << 12, np.int32)
        self.start = np.zeros((1 << 12) + 1, np.int64)
        self.hash = np.zeros(1 << 12, np.uint64)
        self.text = np.zeros(1 << 16, np.uint8)
        self.size = np.zeros(1, np.int64)

    def __len__(self) -> int:
        return int(self.size[0])

    def make_room(self, n_bytes: int) -> None:
        """Grow so that at least one more pair with a text of ``n_bytes`` fits."""
        n = len(self)
        if n + 1 >= len(self.item):
            self.item, self.hash = _grown(self.item), _grown(self.hash)
            self.start = np.concatenate([self.start, np.zeros(len(self.start) - 1, np.int64)])
            self.slots = np.full(4 * len(self.item), -1, np.int32)
            rehash(self.slots, self.hash, n)
        while self.start[n] + n_bytes > len(self.text):
            self.text = _grown(self.text)

    def items(self) -> np.ndarray:
        """Item code (row of the item list) of each pair."""
        return self.item[: len(self)]

    def texts(self) -> list[str]:
        """Text of each pair, as charted."""
        raw, start = self.text.tobytes(), self.start
        return [raw[start[i] : start[i + 1]].decode("utf-8", "replace") for i in range(len(self))]


@dataclass
class ScanCounts:
    """What became of the rows of one table: ``rows`` = ``used`` + all of ``dropped``."""

    rows: int = 0
    used: int = 0
    dropped: np.ndarray = field(default_factory=lambda: np.zeros(len(REASONS), np.int64))
    pair_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def scan_events(
    path: Path,
    table: str,
    itemids: np.ndarray,
    stays: KeptStays,
    pairs: PairTable,
    counts: ScanCounts,
    *,
    link_by_time: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[np.ndarray]:
    """Yield the rows that can be used as arrays of `scan_loop.LINKED`, in file order; each is gone with the next one.

    A row is used if its item is in ``itemids``, its value is not empty, its hadm_id (or, with ``link_by_time``, the
    time of a row without hadm_id) belongs to a kept stay of the same subject, and its stay_id, where there is one,
    is that stay. Everything else is counted in ``counts``.

    Raises:
        RawDataError: a needed column is missing, the file is damaged, or a quote is never closed.
    """
    lookup = np.full(_ITEM_SPACE, -1, np.int16)
    lookup[itemids] = np.arange(len(itemids), dtype=np.int16)
    out = np.empty(_ROWS, LINKED)
    state = np.zeros(4, np.int64)  # where it stopped, rows out, rows seen, bytes wanted for the next text
    links = (stays.hadm_id, stays.stay_id, stays.subject_id, stays.intime, stays.outtime)
    blocks = _blocks(path, progress)
    columns, n_columns, rest = _header(path, table, blocks)

    def scan(block: bytes, start: int = 0, *, final: bool = False) -> Generator[np.ndarray, None, int]:
        """Yield the rows of ``block`` from ``start`` on; return where its whole records end."""
        buffer = np.frombuffer(block, np.uint8)
        while start < len(buffer):
            if len(counts.pair_rows) < len(pairs.item):
                counts.pair_rows = np.concatenate(
                    [counts.pair_rows, np.zeros(len(pairs.item) - len(counts.pair_rows), np.int64)]
                )
            scan_block(
                buffer, start, final, columns, n_columns, lookup, links, stays.by_subject, stays.sorted_subject,
                link_by_time, pairs.slots, pairs.item, pairs.start, pairs.hash, pairs.text, pairs.size,
                counts.pair_rows, counts.dropped, out, state,
            )  # fmt: skip
            start, n_out, n_rows, wanted = (int(value) for value in state)
            counts.rows += n_rows
            counts.used += n_out
            if n_out:
                yield out[:n_out]
            if wanted:
                pairs.make_room(wanted)
            elif n_out < _ROWS:
                break
        return start

    tail = b""
    for block in chain([rest], blocks):
        start = 0
        if tail:
            # The record across the seam is read apart, so that no block is copied.
            start = (yield from scan(tail + block[:_SEAM])) - len(tail)
            if start < 0:
                block, start = tail[start:] + block, 0
        used = yield from scan(block, start)
        tail = block[used:]
        if len(tail) > _LONGEST_RECORD:
            raise RawDataError(
                f"{path}: a record after row {counts.rows} is longer than {_LONGEST_RECORD >> 20} MB; expected a "
                "line break outside quotes. A quote is opened and never closed: download the file again."
            )
    used = yield from scan(tail, final=True)
    if used < len(tail):
        raise RawDataError(f"{path}: the file ends inside a quoted field after row {counts.rows}; download it again.")


def _blocks(path: Path, progress: Callable[[int], None] | None) -> Iterator[bytes]:
    """Inflated blocks of the file, read ahead by a second thread."""
    queue: Queue = Queue(maxsize=4)
    stop = threading.Event()

    def read() -> None:
        try:
            with open_bytes(path) as stream:
                while not stop.is_set() and (block := stream.read(BLOCK)):
                    queue.put((block, stream.raw_position()))
            queue.put((b"", 0))
        except BaseException as error:  # handed to the reading thread, which raises it
            queue.put((error, 0))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while True:
            block, position = queue.get()
            if isinstance(block, BaseException):
                raise block
            if not block:
                return
            if progress:
                progress(position)
            yield block
    finally:
        stop.set()
        while thread.is_alive():
            while not queue.empty():
                queue.get_nowait()
            thread.join(0.01)


def _header(path: Path, table: str, blocks: Iterator[bytes]) -> tuple[tuple[int, ...], int, bytes]:
    """Places of the needed columns, the number of columns, and what follows the header in the bytes read for it."""
    first = b""
    while b"\n" not in first:
        block = next(blocks, b"")
        if not block:
            break
        first += block
    line, _, rest = first.partition(b"\n")
    names = [name.strip().strip('"') for name in line.decode("utf-8-sig", "replace").rstrip("\r").split(",")]
    needed = [name for name in NEEDED if not (name == "stay_id" and table == "labevents")]
    missing = [name for name in needed if name not in names]
    if missing:
        raise RawDataError(
            f"{path}: expected columns {', '.join(needed)}; missing {', '.join(missing)}. Is this {table} of MIMIC-IV?"
        )
    repeated = sorted({name for name in needed if names.count(name) > 1})
    if repeated:
        raise RawDataError(f"{path}: column {', '.join(repeated)} stands more than once in the header")
    return tuple(names.index(name) if name in needed else -1 for name in NEEDED), len(names), rest


def _grown(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, np.zeros_like(array)])


def size_of(path: Path) -> int:
    """Bytes on disk, the unit of progress."""
    return path.stat().st_size
