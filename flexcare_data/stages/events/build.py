"""Chart and lab rows to EVENTS: one value per stay, time and variable.

In: chartevents, labevents as published, STAYS. Out: `events.parquet`, counts of rows and of every value dropped.

Three passes, so that memory does not grow with the tables: (1) scan each table once and append the linked rows to
buckets of subjects on disk, (2) resolve the duplicates of each bucket in memory, (3) write the stays of all buckets in
order of stay_id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from flexcare_data import progress
from flexcare_data.parallel import map_in_order
from flexcare_data.raw.event_scan import KeptStays, ScanCounts, scan_events, size_of
from flexcare_data.raw.event_scan_kernel import LINKED, REASONS, STORED
from flexcare_data.raw.event_values import PairTable
from flexcare_data.raw.tables import Dropped, count
from flexcare_data.schema import Flow
from flexcare_data.stages.events.cleaning import CleanPairs, clean_pairs
from flexcare_data.stages.events.settle import NO_TEXT, ORDER, SETTLED, Settler
from flexcare_data.stages.work import StageWork, write_counts
from flexcare_data.stages.work import scratch as scratch_folder
from flexcare_data.variables import ITEMS, VARIABLES

if TYPE_CHECKING:
    from flexcare_data.options import Options

_BYTES_PER_BUCKET = 16 << 20
_MOST_BUCKETS = 256
_ROWS_PER_GROUP = 1 << 18
_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True)
class EventCounts:
    """Rows read and used by table, and what was dropped, by table, variable and reason."""

    flow: dict[str, Flow]
    dropped: Dropped


def build_events(
    tables: dict[str, Path],
    stays: pl.DataFrame,
    options: Options,
    *,
    out: Path,
    scratch: Path,
    threads: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> EventCounts:
    """Write EVENTS of ``stays`` to ``out``.

    Args:
        tables: chartevents and labevents by name (a table may be left out).
        stays: STAYS; all kept stays, also those without a known diagnosis, as rows are shared among them.
        scratch: an empty folder for the buckets, about 20 bytes per used row.
        threads: with 2 or more the tables are scanned side by side; the result is the same.
        progress: called with table, bytes read so far and bytes in all.

    Raises:
        RawDataError: see `event_scan.scan_events`.
    """
    kept = kept_stays(stays)
    buckets = _Buckets(kept, scratch, sum(size_of(path) for path in tables.values()))
    pairs = {name: PairTable() for name in tables}
    counts = {name: ScanCounts() for name in tables}
    itemids = np.array([item.itemid for item in ITEMS])

    def scan(number: int, name: str) -> None:
        total = size_of(tables[name])
        batches = scan_events(
            tables[name],
            name,
            itemids,
            kept,
            pairs[name],
            counts[name],
            link_by_time=name == "labevents" and options.lab_without_hadm == "by_time",
            progress=(lambda done: progress(name, done, total)) if progress else None,
        )
        for rows in batches:
            rows["pair"] *= len(tables)
            rows["pair"] += number
            buckets.append(rows)

    with buckets, ThreadPoolExecutor(max(1, min(threads, len(tables)))) as pool:
        for done in [pool.submit(scan, number, name) for number, name in enumerate(tables)]:
            done.result()
    # Each table numbers its own pairs; from here on those of one table follow those of the other.
    first_pair = np.cumsum([0, *(len(table) for table in pairs.values())])
    clean = clean_pairs(
        np.concatenate([table.items() for table in pairs.values()]),
        [text for table in pairs.values() for text in table.texts()],
        options,
    )
    result = EventCounts({}, {})
    _report(counts, pairs, clean, result)
    runs = scratch / "settled.bin"
    slices = np.zeros((len(kept.stay_id), 2), np.int64)
    with runs.open("wb") as file:
        position = 0
        settle = Settler.of(kept, clean, options).settle
        for stay, settled, repeats in map_in_order(settle, buckets.read(first_pair[:-1]), threads):
            for variable, n in enumerate(repeats):
                count(result.dropped, "events", ORDER[variable], "further_value_at_one_time", int(n))
            file.write(settled.data)
            first = np.flatnonzero(np.diff(stay, prepend=-1))
            slices[stay[first], 0] = position + first
            slices[stay[first], 1] = np.diff(first, append=len(stay))
            position += len(stay)
    _write(out, kept.stay_id, slices, runs, *_words_by_rank(clean), threads)
    return result


def kept_stays(stays: pl.DataFrame) -> KeptStays:
    """STAYS as arrays for the scan."""
    ordered = stays.sort("hadm_id")
    hadm_id, stay_id, subject_id = (ordered[name].to_numpy() for name in ("hadm_id", "stay_id", "subject_id"))
    return KeptStays(hadm_id, stay_id, subject_id, _seconds(ordered["intime"]), _seconds(ordered["outtime"]))


def _seconds(times: pl.Series) -> np.ndarray:
    # A missing outtime contains no time.
    return times.dt.epoch("s").fill_null(_NEVER).to_numpy()


class _Buckets:
    """Linked rows on disk, split by subject, so that a bucket fits in memory for tables of any size."""

    def __init__(self, kept: KeptStays, folder: Path, n_bytes: int) -> None:
        n = min(_MOST_BUCKETS, max(1, -(-n_bytes // _BYTES_PER_BUCKET)))
        subjects, rank = np.unique(kept.subject_id, return_inverse=True)
        self.of_stay = (rank * n // max(1, len(subjects))).astype(np.int16)
        self.paths = [folder / f"bucket{index:03d}.bin" for index in range(n)]
        self._stack, self._lock = ExitStack(), Lock()

    def __enter__(self) -> _Buckets:
        self._files = [self._stack.enter_context(path.open("wb")) for path in self.paths]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def append(self, rows: np.ndarray) -> None:
        bucket = self.of_stay[rows["stay"]]
        # The published tables are sorted by subject: then there is nothing to sort.
        if (bucket[1:] < bucket[:-1]).any():
            order = np.argsort(bucket, kind="stable")
            rows, bucket = rows[order], bucket[order]
        first = np.flatnonzero(np.diff(bucket, prepend=-1))
        with self._lock:
            for start, end in zip(first, np.append(first[1:], len(rows)), strict=True):
                self._files[bucket[start]].write(rows[start:end].data)

    def read(self, first_pair: np.ndarray) -> Iterator[np.ndarray]:
        """The rows of each bucket; ``first_pair`` is where each table's pairs begin."""
        for path in self.paths:
            rows = np.fromfile(path, LINKED)
            pair, table = np.divmod(rows["pair"], len(first_pair))
            rows["pair"] = pair + first_pair[table]
            yield rows
            path.unlink()


def _report(counts: dict[str, ScanCounts], pairs: dict[str, PairTable], clean: CleanPairs, result: EventCounts) -> None:
    """Add the rows read and used of each table to ``result``; read = used + dropped."""
    first = 0
    for name, scanned in counts.items():
        for reason, n in zip(REASONS, scanned.dropped, strict=True):
            count(result.dropped, name, "", reason, n)
        for reason, n in zip(STORED, scanned.stored, strict=True):
            count(result.dropped, "storetime", name, reason, n)  # these rows are used
        unusable = 0
        for pair, n in enumerate(pairs[name].rows().tolist(), start=first):
            why = clean.reason[pair]
            if why:
                unusable += n
                count(result.dropped, name, VARIABLES[clean.variable[pair]], why, n)
        first += len(pairs[name])
        result.flow[name] = [
            {"step": "rows read", "rows": scanned.rows},
            {"step": "rows used", "rows": scanned.used - unusable},
        ]


def _words_by_rank(clean: CleanPairs) -> tuple[np.ndarray, list[str]]:
    """The distinct texts, and for each rank the position of its text among them (returned first)."""
    words: dict[str, int] = {}
    place = np.zeros(int(clean.rank.max(initial=0)) + 1, np.int32)
    for pair in np.flatnonzero(clean.usable):
        place[clean.rank[pair]] = words.setdefault(clean.text[pair], len(words))
    return place, list(words)


def _write(
    out: Path, stay_ids: np.ndarray, slices: np.ndarray, runs: Path, place: np.ndarray, words: list[str], threads: int
) -> None:
    """Gather the settled stays in order of stay_id, a row group of bounded size at a time."""
    schema = pa.schema(
        [
            ("stay_id", pa.int64()), ("hours", pa.float64()), ("variable", pa.dictionary(pa.int8(), pa.string())),
            ("value", pa.dictionary(pa.int32(), pa.string())), ("number", pa.float64()), ("stored_hours", pa.float64()),
        ]
    )  # fmt: skip
    settled = np.memmap(runs, SETTLED, "r") if runs.stat().st_size else np.zeros(0, SETTLED)
    names = pa.array(ORDER, pa.string())
    order = np.argsort(stay_ids, kind="stable")

    def group(part: slice) -> pa.Table:
        chosen = order[part]
        n = slices[chosen, 1]
        rows = np.concatenate([settled[start : start + size] for start, size in slices[chosen].tolist()])
        columns = [
            pa.array(np.repeat(stay_ids[chosen], n), pa.int64()),
            pa.array(rows["hours"], pa.float64()),
            pa.DictionaryArray.from_arrays(pa.array(rows["variable"], pa.int8()), names),
            _texts(rows, place, words),
            pa.array(rows["number"], pa.float64()),
            pa.array(rows["stored_hours"], pa.float64()),
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    # Without the Arrow schema a reader sees the two text columns as plain text, not as dictionaries.
    with pq.ParquetWriter(
        out,
        schema,
        compression="zstd",
        compression_level=1,
        store_schema=False,
        use_dictionary=["stay_id", "variable", "value", "number"],
        write_statistics=["stay_id"],
    ) as writer:
        for table in map_in_order(group, _groups(np.cumsum(slices[order, 1])), threads):
            if table.num_rows:
                writer.write_table(table)


def _groups(ends: np.ndarray) -> Iterator[slice]:
    """Consecutive stays of about `_ROWS_PER_GROUP` rows, given the rows up to the end of each stay."""
    start = 0
    while start < len(ends):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _ROWS_PER_GROUP, "right")))
        yield slice(start, stop)
        start = stop


def _texts(rows: np.ndarray, place: np.ndarray, words: list[str]) -> pa.DictionaryArray:
    """Text of each row, as a dictionary of the texts that occur.

    A dictionary with a repeated word is written as plain text, and its page ends in bytes that are not initialised.
    """
    at = place[np.maximum(rows["text"], 0)]
    without = rows["text"] == NO_TEXT
    if without.any():
        # Averaged and derived numbers were never charted: their text is the number itself.
        numbers, position = np.unique(rows["number"][without], return_inverse=True)
        known = {word: index for index, word in enumerate(words)}
        added = [known.setdefault(repr(float(number)), len(known)) for number in numbers]
        at[without] = np.array(added, np.int32)[position]
        words = list(known)
    occurs = np.zeros(len(words), bool)
    occurs[at] = True
    code = (np.cumsum(occurs) - 1).astype(np.int32)
    present = pa.array([words[index] for index in np.flatnonzero(occurs)], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(code[at], pa.int32()), present)


def run(work: StageWork) -> None:
    """Stage `events`: events.parquet."""
    tables = {name: work.locate(name) for name in ("chartevents", "labevents")}
    size = sum(path.stat().st_size for path in tables.values())
    with work.folder() as folder, scratch_folder(folder) as scratch:
        meter, read = progress.meter("bytes"), dict.fromkeys(tables, 0)

        def show(name: str, done: int, total: int) -> None:
            read[name] = done  # the tables are read side by side
            if meter:
                meter(sum(read.values()), size)

        counts = build_events(
            tables,
            work.table("stays", "stays"),
            work.options,
            out=folder / "events.parquet",
            scratch=scratch,
            threads=work.threads,
            progress=show,
        )
        write_counts(folder, counts.flow, counts.dropped)
