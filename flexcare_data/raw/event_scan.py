"""Read a large event table (chartevents, labevents) once, keeping the rows of used items and kept stays.

In: a `.csv` or `.csv.gz` as published, the used items, the kept stays. Out: batches of (stay, charttime, delay of
storetime, pair), where a pair is a distinct (item, text), and a count for every row that is not in a batch.

`docs/event_scan.md` explains the method and why no CSV library is used.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from flexcare_data.parallel import prefetch
from flexcare_data.raw.event_scan_kernel import LINKED, NEEDED, REASONS, STORED, TEXT, scan_block
from flexcare_data.raw.event_values import PairTable
from flexcare_data.raw.files import RawDataError, open_bytes
from flexcare_data.raw.tables import check_header, header_of
from flexcare_data.schema import RAW

BLOCK = 1 << 20
"""Inflated bytes at a time. Larger blocks no longer fit the CPU cache when the incomplete record is prepended."""
_BLOCKS_AHEAD = 8
_ROWS = 1 << 17
_LONGEST_RECORD = 64 << 20
_ITEM_SPACE = 1 << 18


@dataclass(frozen=True)
class KeptStays:
    """The kept stays as arrays, sorted by hadm_id (no two kept stays share an admission).

    Times are seconds since 1970 without time zone. ``by_subject`` lists the rows in order of the subject, and
    ``sorted_subject`` the subjects in this order, to find all stays of a subject.
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


@dataclass
class ScanCounts:
    """Rows read, rows used, and rows dropped by reason (`REASONS`): ``rows`` = ``used`` + the sum of ``dropped``.

    ``stored`` counts those of the used rows whose storetime is not used, by reason (`STORED`).
    """

    rows: int = 0
    used: int = 0
    dropped: np.ndarray = field(default_factory=lambda: np.zeros(len(REASONS), np.int64))
    stored: np.ndarray = field(default_factory=lambda: np.zeros(len(STORED), np.int64))


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
    """Yield the rows that can be used, in file order, as arrays of `event_scan_kernel.LINKED`.

    All arrays share one memory: use each of them before asking for the next.

    A row is used if its item is in ``itemids``, its value is not empty, its hadm_id (or, with ``link_by_time``, the
    time of a row without hadm_id) belongs to a kept stay of the same subject, and its stay_id, where there is one,
    is that stay. Everything else is counted in ``counts``.

    Raises:
        RawDataError: a needed column is missing, the file is damaged, or a quote is never closed.
    """
    lookup = np.full(_ITEM_SPACE, -1, np.int16)
    lookup[itemids] = np.arange(len(itemids), dtype=np.int16)
    out, texts = np.empty(_ROWS, LINKED), np.empty(_ROWS, TEXT)
    state = np.zeros(3, np.int64)  # where it stopped, rows out, rows seen
    links = (stays.hadm_id, stays.stay_id, stays.subject_id, stays.intime, stays.outtime)
    blocks = prefetch(_blocks(path, progress), _BLOCKS_AHEAD)
    columns, n_columns, rest = _header(path, table, blocks)

    def scan(block: bytes, *, final: bool = False) -> Generator[np.ndarray, None, int]:
        """Yield the rows of ``block``; return where its whole records end."""
        buffer, start = np.frombuffer(block, np.uint8), 0
        while start < len(buffer):
            scan_block(
                buffer, start, final, columns, n_columns, lookup, links, stays.by_subject, stays.sorted_subject,
                link_by_time, counts.dropped, counts.stored, out, texts, state,
            )  # fmt: skip
            start, n_out, n_rows = (int(value) for value in state)
            counts.rows += n_rows
            counts.used += n_out
            if n_out:
                pairs.number(out[:n_out], texts[:n_out], buffer)
                yield out[:n_out]
            if n_out < _ROWS:
                break
        return start

    tail = b""
    for block in chain([rest], blocks):
        block = tail + block
        used = yield from scan(block)
        tail = block[used:]
        if len(tail) > _LONGEST_RECORD:
            raise RawDataError(
                f"{path}: a record after row {counts.rows} is longer than {_LONGEST_RECORD >> 20} MB; expected a "
                "line break outside quotes. A quote is opened and never closed: download the file again."
            )
    used = yield from scan(tail, final=True)
    if used < len(tail):
        raise RawDataError(f"{path}: the file ends inside a quoted field after row {counts.rows}; download it again.")


def _blocks(path: Path, progress: Callable[[int], None] | None) -> Generator[bytes, None, None]:
    """Inflated blocks of the file; ``progress`` is called with the bytes on disk read so far."""
    with open_bytes(path) as stream:
        while block := stream.read(BLOCK):
            if progress:
                progress(stream.raw_position())
            yield block


def _header(path: Path, table: str, blocks: Iterator[bytes]) -> tuple[tuple[int, ...], int, bytes]:
    """Positions of the needed columns, the number of columns, and the bytes that were read after the header."""
    first = b""
    while b"\n" not in first:
        block = next(blocks, b"")
        if not block:
            break
        first += block
    line, _, rest = first.partition(b"\n")
    names = header_of(line)
    check_header(names, path, RAW[table], RAW[table].needed)
    known = [name if name in RAW[table].columns else "" for name in names]
    return tuple(known.index(name) if name in known else -1 for name in NEEDED), len(names), rest


def size_of(path: Path) -> int:
    """Bytes on disk, the unit of progress."""
    return path.stat().st_size
