"""EVENTS to the hourly grid of every stay, ragged; also the tails of samples that end inside an hour, and the scaler.

In: `events.parquet`, STAYS. Out: `values.npy` (H, 17) float64 and `observed.npy` (H, 17) uint8 with one row per hour of
every stay, HOURLY_INDEX, scaler.json. Columns follow `variables.VARIABLES`: continuous ones hold the unnormalised
number, the others the position of the value in `variables.CATEGORIES`. `series.expand` makes the 76 input columns.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from flexcare_data import progress as bars
from flexcare_data.hours import TOLERANCE, n_bins
from flexcare_data.parallel import map_in_order
from flexcare_data.raw.tables import Dropped, count, empty_counts
from flexcare_data.scaler import implausible, warning
from flexcare_data.schema import HOURLY_INDEX, TAILS_INDEX, check
from flexcare_data.stages.work import StageWork, write_counts
from flexcare_data.variables import CATEGORIES, CONTINUOUS, DEFAULTS, MERGED_SPELLINGS, VARIABLE, VARIABLES

if TYPE_CHECKING:
    from flexcare_data.options import Options

_N = len(VARIABLES)
_HOURS_PER_PIECE = 1 << 12


@dataclass(frozen=True)
class StayEvents:
    """Events of consecutive stays, sorted by the time at which they enter the series; ``start`` bounds the stays.

    Attributes:
        hours: hours from intime until the value enters the series (option `availability`).
        charted: hours from intime until it was charted.
        variable: position in `VARIABLES`.
        cell: number, or position of the category.
    """

    stay_id: np.ndarray
    start: np.ndarray
    hours: np.ndarray
    charted: np.ndarray
    variable: np.ndarray
    cell: np.ndarray


@dataclass(frozen=True)
class _Grids:
    """The grids of a `StayEvents`: its stays with a series, their values and observations in pieces.

    ``too_late`` is how many values of each variable were charted during a stay but entered the series only after it.
    """

    stay_id: np.ndarray
    n_hours: np.ndarray
    first_hours: np.ndarray
    pieces: list[tuple[np.ndarray, np.ndarray]]
    last_stay: int
    too_late: np.ndarray


def read_events(path: Path, options: Options) -> Iterator[StayEvents]:
    """Whole stays of EVENTS, a row group at a time."""
    file = pq.ParquetFile(path, read_dictionary=["variable", "value"])
    columns = ["stay_id", "hours", "variable", "value", "number"]
    if options.availability == "storetime":
        columns.append("stored_hours")
    held: dict[str, np.ndarray] | None = None
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=columns).combine_chunks()
        part = _coded(table, options)
        if held is not None:
            part = {name: np.concatenate([held[name], part[name]]) for name in part}
        # The last stay may continue in the next group.
        last = int(np.searchsorted(part["stay_id"], part["stay_id"][-1], "left"))
        held = {name: column[last:] for name, column in part.items()}
        if last:
            yield _bounded({name: column[:last] for name, column in part.items()}, options)
    if held is not None:
        yield _bounded(held, options)


def _bounded(part: dict[str, np.ndarray], options: Options) -> StayEvents:
    entry = "charted"
    if options.availability == "storetime":
        entry = "stored"
        # lexsort keeps the order of equal rows: of values stored at one time the one charted last comes last.
        order = np.lexsort((part["stored"], part["stay_id"]))
        part = {name: column[order] for name, column in part.items()}
    stay_id, start = np.unique(part["stay_id"], return_index=True)
    start = np.append(start, len(part["stay_id"])).astype(np.int64)
    return StayEvents(stay_id, start, part[entry], part["charted"], part["variable"], part["cell"])


def _coded(table, options: Options) -> dict[str, np.ndarray]:
    """Row group to arrays; texts of categorical variables become positions in `CATEGORIES`."""
    variable, value = (table[name].chunk(0) for name in ("variable", "value"))
    code = np.array([VARIABLES.index(name) for name in variable.dictionary.to_pylist()], np.int8)
    codes = code[variable.indices.to_numpy()]
    cell = table["number"].to_numpy().copy()
    texts = value.dictionary.to_pylist()
    text = value.indices.to_numpy()
    for name, categories in CATEGORIES.items():
        rows = np.flatnonzero(codes == VARIABLES.index(name))
        if not len(rows) or name == "capillary_refill_rate":
            continue  # 0.0 and 1.0 of the refill are their own positions
        if name == "gcs_total":
            by_number = {float(category): index for index, category in enumerate(categories)}
            cell[rows] = [by_number[number] for number in cell[rows]]
        else:
            merged = MERGED_SPELLINGS[name] if options.gcs_spellings == "merged" else {}
            position = {category: index for index, category in enumerate(categories)}
            by_text = np.array([position.get(merged.get(word, word), -1) for word in texts], np.float64)
            cell[rows] = by_text[text[rows]]
    times = {"charted": "hours", "stored": "stored_hours"}
    return {
        "stay_id": table["stay_id"].to_numpy(),
        **{name: table[column].to_numpy() for name, column in times.items() if column in table.column_names},
        "variable": codes,
        "cell": cell,
    }


def build_hourly(
    events: Path,
    ends: pl.DataFrame,
    options: Options,
    *,
    out: Path,
    train_stays: np.ndarray | None = None,
    dropped: Dropped | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write the grids of all stays that have a series.

    A stay has a series if it has a length of stay and an event in [intime, intime + los].

    Args:
        events: EVENTS as written by `events.build_events`.
        ends: stay_id and los_hours of the stays that may have a series (those with a known diagnosis).
        out: folder for values.npy, observed.npy, index.parquet and scaler.json.
        train_stays: stay_ids whose rows fit the scaler (option `scaler: train`).
        dropped: gets the values that entered the series only after the end of their stay.
        threads: parts of EVENTS that are processed in parallel; the result is the same.
        progress: called with stays done and in all.

    Returns:
        Counts: stays requested, stays with a series, hours.
    """
    ends = ends.drop_nulls("los_hours").sort("stay_id")
    known, los = ends["stay_id"].to_numpy(), ends["los_hours"].to_numpy()
    moments = _Moments(train_stays) if options.scaler == "train" else None

    def work(part: StayEvents) -> _Grids:
        end = _ends_of(part.stay_id, known, los)
        first = first_hours(part, end)
        chosen = np.flatnonzero(~np.isnan(first))
        pieces = [grids(part, chosen[piece], end[chosen[piece]], options) for piece in _pieces(n_bins(end[chosen]))]
        stays, n_hours = part.stay_id[chosen], n_bins(end[chosen])
        return _Grids(stays, n_hours, first[chosen], pieces, int(part.stay_id[-1]), _too_late(part, end))

    done = [_Grids(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), [], 0, np.zeros(_N, np.int64))]
    with _NpyWriter(out / "values.npy", np.float64) as values_file, _NpyWriter(out / "observed.npy", np.uint8) as seen:
        for made in map_in_order(work, read_events(events, options), threads):
            stay_of_row, top = np.repeat(made.stay_id, made.n_hours), 0
            for values, observed in made.pieces:
                values_file.append(values)
                seen.append(observed)
                if moments:
                    moments.add(stay_of_row[top : top + len(values)], values)
                top += len(values)
            made.pieces.clear()
            done.append(made)
            if progress:
                progress(int(np.searchsorted(known, made.last_stay, "right")), len(known))
    stay_id, n_hours, first = (
        np.concatenate([getattr(made, name) for made in done]) for name in ("stay_id", "n_hours", "first_hours")
    )
    offset = np.cumsum(n_hours) - n_hours
    index = pl.DataFrame({"stay_id": stay_id, "offset": offset, "n_hours": n_hours, "first_hours": first})
    check(index, HOURLY_INDEX).write_parquet(out / "index.parquet")
    if dropped is not None:
        for name, n in zip(VARIABLES, np.sum([made.too_late for made in done], axis=0), strict=True):
            count(dropped, "events", name, "stored_after_the_stay", n)
    scaler = moments.scaler() if moments else mimic3_scaler()
    (out / "scaler.json").write_text(json.dumps(scaler, indent=1) + "\n")
    return {"stays": ends.height, "with series": len(stay_id), "hours": int(n_hours.sum())}


def _ends_of(stay_id: np.ndarray, known: np.ndarray, los: np.ndarray) -> np.ndarray:
    """los of each stay, NaN where it is not among the sorted ``known``."""
    end = np.full(len(stay_id), np.nan)
    asked, at = np.intersect1d(stay_id, known, assume_unique=True, return_indices=True)[1:]
    end[asked] = los[at]
    return end


def _too_late(part: StayEvents, end: np.ndarray) -> np.ndarray:
    """Values of each variable that were charted from intime to ``end`` (hours of each stay) but entered after it."""
    end = np.repeat(end, np.diff(part.start))
    is_late = (part.charted > -TOLERANCE) & (part.charted <= end + TOLERANCE) & (part.hours > end + TOLERANCE)
    return np.bincount(part.variable[is_late], minlength=_N)


def first_hours(part: StayEvents, end: np.ndarray) -> np.ndarray:
    """Hours of the first value that enters at or after intime if it is before ``end``, else NaN; one per stay."""
    n_before = np.add.reduceat(part.hours <= -TOLERANCE, part.start[:-1], dtype=np.int64)
    at = part.start[:-1] + n_before
    first = np.where(at < part.start[1:], part.hours[np.minimum(at, len(part.hours) - 1)], np.nan)
    return np.where(first < end + TOLERANCE, first, np.nan)


def grids(part: StayEvents, stays: np.ndarray, end: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Filled grids of ``stays`` (positions in ``part``) up to ``end`` hours, one after another.

    Bin k holds what entered in (k, k+1] hours (option `edges: left`: [k, k+1)); what entered at intime is in bin 0.
    When a value enters is decided by option `availability`. The last value of a bin wins per variable; nothing after
    ``end`` is used. Cells before the first value hold the default, or with `height: inches_converted` the last height
    or weight that entered before intime.

    Returns:
        values (sum of bins, 17) float64 and observed (sum of bins, 17) uint8.
    """
    bins, left = n_bins(end), options.edges == "left"
    top = np.cumsum(bins) - bins
    sizes = part.start[stays + 1] - part.start[stays]
    event = np.repeat(part.start[stays] - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
    stay = np.repeat(np.arange(len(stays)), sizes)
    hours, variable, cell = part.hours[event], part.variable[event].astype(np.int64), part.cell[event]
    before = hours <= -TOLERANCE
    hour = np.trunc(np.maximum(hours, 0.0) if left else hours - TOLERANCE).astype(np.int64)
    seen = ~before & (hours < end[stay] if left else hours <= end[stay] + TOLERANCE) & (hour < bins[stay])
    initial = np.tile(_defaults(), (len(stays), 1))
    if options.height == "inches_converted":
        carried = np.flatnonzero(before & np.array([v.carried for v in VARIABLE.values()])[variable])
        initial[stay[carried], variable[carried]] = cell[carried]
    values = np.empty((int(bins.sum()), _N), np.float64)
    observed = np.zeros(values.shape, np.uint8)
    values[top[bins > 0]] = initial[bins > 0]
    # Events are sorted by time, and numpy keeps the last of several assignments to one cell.
    at = (top[stay[seen]] + hour[seen]) * _N + variable[seen]
    values.reshape(-1)[at] = cell[seen]
    observed.reshape(-1)[at] = 1
    return _filled(values, observed, top[bins > 0]), observed


def _filled(values: np.ndarray, observed: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Fill each cell that was not observed from the row above; ``top`` (first row of each stay) is kept as it is."""
    source = np.where(observed, np.arange(len(values), dtype=np.int32)[:, None], np.int32(0))
    source[top] = top[:, None]
    np.maximum.accumulate(source, axis=0, out=source)
    return values.reshape(-1).take(source * np.int64(_N) + np.arange(_N))


def _defaults() -> np.ndarray:
    return np.array(
        [
            float(CATEGORIES[name].index(str(DEFAULTS[name]))) if name in CATEGORIES else float(DEFAULTS[name])
            for name in VARIABLES
        ]
    )


def _pieces(n_hours: np.ndarray) -> list[slice]:
    """Slices of consecutive stays with about `_HOURS_PER_PIECE` hours each."""
    if not len(n_hours):
        return []
    piece = (np.cumsum(n_hours) - n_hours) // _HOURS_PER_PIECE
    bounds = np.append(np.flatnonzero(np.diff(piece, prepend=-1)), len(n_hours))
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(bounds)]


def build_tails(events: Path, cohort: pl.DataFrame, series: pl.DataFrame, options: Options, *, out: Path) -> None:
    """Write the last rows of samples whose input ends inside an hour, where they differ from the stay's full grid.

    `flexcare_data.series` reads them.

    Args:
        events: EVENTS as written by `events.build_events`.
        cohort: COHORT of a task that ends within an hour; samples without a series have no tail.
        series: HOURLY_INDEX.
        out: folder for values.npy, observed.npy and index.parquet (TAILS_INDEX).
    """
    rows_of_stay = series.select("stay_id", rows_of_stay="n_hours")
    samples = cohort.drop_nulls("stay_id").sort("stay_id", "sample_id")
    samples = samples.join(rows_of_stay, on="stay_id", how="left", validate="m:1", maintain_order="left")
    stay_ids, end, rows = (samples[name].to_numpy() for name in ("stay_id", "period_length", "rows_of_stay"))
    # The last row that both grids have is a whole hour of the stay, but only a part of it for the sample.
    start = np.maximum(np.minimum(n_bins(end), rows) - 1, 0)
    found: list[tuple[int, np.ndarray, np.ndarray]] = []
    for part in read_events(events, options):
        low, high = (
            np.searchsorted(stay_ids, part.stay_id[0], "left"),
            np.searchsorted(stay_ids, part.stay_id[-1], "right"),
        )
        asked = np.arange(low, high)
        stay = np.searchsorted(part.stay_id, stay_ids[asked])
        asked, stay = asked[part.stay_id[stay] == stay_ids[asked]], stay[part.stay_id[stay] == stay_ids[asked]]
        for piece in _pieces(n_bins(end[asked])):
            values, observed = grids(part, stay[piece], end[asked[piece]], options)
            top = 0
            for sample, n_hours in zip(asked[piece], n_bins(end[asked[piece]]), strict=True):
                tail = slice(top + start[sample], top + n_hours)
                found.append((int(sample), values[tail].copy(), observed[tail].copy()))
                top += n_hours
    names = samples["sample_id"].to_list()
    found.sort(key=lambda tail: names[tail[0]])
    with _NpyWriter(out / "values.npy", np.float64) as values_file, _NpyWriter(out / "observed.npy", np.uint8) as seen:
        for _, values, observed in found:
            values_file.append(values)
            seen.append(observed)
    order = [sample for sample, _, _ in found]
    n_rows = np.array([len(values) for _, values, _ in found], np.int64)
    index = pl.DataFrame(
        {
            "sample_id": [names[sample] for sample in order],
            "start": start[order].astype(np.int64),
            "offset": np.cumsum(n_rows) - n_rows,
            "n_rows": n_rows,
        },
        schema={"sample_id": pl.String, "start": pl.Int64, "offset": pl.Int64, "n_rows": pl.Int64},
    )
    check(index, TAILS_INDEX).write_parquet(out / "index.parquet")


def mimic3_scaler() -> dict:
    """The published scaler in the form of scaler.json."""
    mean, std = zip(*(VARIABLE[name].mimic3 or (0.0, 1.0) for name in CONTINUOUS), strict=True)
    return {"source": "mimic3", "columns": list(CONTINUOUS), "mean": list(mean), "std": list(std), "n_hours": None}


class _Moments:
    """Mean and standard deviation of the continuous columns over the hours of the train stays."""

    def __init__(self, train_stays: np.ndarray | None) -> None:
        if train_stays is None:
            raise ValueError("scaler: train needs the stays of the train split, got none")
        self._train = np.sort(train_stays)
        self._columns = [VARIABLES.index(name) for name in CONTINUOUS]
        # Sums are taken around the defaults: large offsets would cost digits.
        self._shift = _defaults()[self._columns]
        self._n, self._sum, self._squares = 0, np.zeros(len(CONTINUOUS)), np.zeros(len(CONTINUOUS))

    def add(self, stay_id: np.ndarray, values: np.ndarray) -> None:
        rows = values[np.isin(stay_id, self._train)][:, self._columns] - self._shift
        self._n += len(rows)
        self._sum += rows.sum(axis=0)
        self._squares += (rows**2).sum(axis=0)

    def scaler(self) -> dict:
        n = max(self._n, 1)
        mean = self._sum / n
        std = np.sqrt(np.maximum(self._squares / n - mean**2, 0))
        std = np.where(std > 1e-8, std, 1.0)  # a constant column stays as it is
        return {
            "source": "train",
            "columns": list(CONTINUOUS),
            "mean": (mean + self._shift).tolist(),
            "std": std.tolist(),
            "n_hours": self._n,
        }


class _NpyWriter:
    """An NPY file (n, 17) that grows by rows; the header is completed on closing."""

    def __init__(self, path: Path, dtype: type) -> None:
        self._path, self._dtype, self._n = path, np.dtype(dtype), 0

    def __enter__(self) -> _NpyWriter:
        self._file = self._path.open("wb")
        self._header()
        return self

    def _header(self) -> None:
        # numpy pads the header so that the first axis can grow to 21 digits without moving the data.
        descr = np.lib.format.dtype_to_descr(self._dtype)
        shape = {"descr": descr, "fortran_order": False, "shape": (self._n, _N)}
        np.lib.format.write_array_header_1_0(self._file, shape)

    def append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._n += len(rows)

    def __exit__(self, *_: object) -> None:
        self._file.seek(0)
        self._header()
        self._file.close()


def run(work: StageWork) -> None:
    """Stage `hourly`: values.npy, observed.npy, index.parquet, scaler.json, for stays with a known diagnosis."""
    stays = work.table("stays", "stays", ["stay_id", "subject_id", "los_hours"])
    diagnosed = work.table("stays", "phenotypes", ["stay_id"])
    splits = work.table("splits", "splits")
    dropped = empty_counts()
    train = stays.join(splits.filter(pl.col("split") == "train"), on="subject_id", how="semi")
    ends = stays.join(diagnosed, on="stay_id", how="semi").select("stay_id", "los_hours")
    with work.folder() as folder:
        counts = build_hourly(
            work.upstream["events"] / "events.parquet",
            ends,
            work.options,
            out=folder,
            train_stays=train["stay_id"].to_numpy(),
            dropped=dropped,
            threads=work.threads,
            progress=bars.meter("stays"),
        )
        for found in implausible(json.loads((folder / "scaler.json").read_text())):
            print(f"warning: {warning(found)}", file=sys.stderr)
        flow = [
            {"step": "stays with a known diagnosis", "stays": ends.height},
            {"step": "with a series", "stays": counts["with series"]},
        ]
        write_counts(folder, {"series": flow}, dropped)
