"""Read hourly rows: which rows a sample uses, and the model input made of them.

In: `data/hourly/` of an output folder, a task, samples of its cohort. Out: ranges of rows, the rows, 76 columns.

The rows of a task are one array: first those of all stays, then those of `data/hourly/<task>_tails/`, where the input
of a sample ends inside an hour (diagnosis). A sample reads at most two ranges of it, in order.
`HourlyRows.ranges` decides which ones; all other code only sees ranges. `stages.hourly.build_tails` writes the tails.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from flexcare_data.schema import HOURLY_INDEX, TAILS_INDEX
from flexcare_data.store.shards import Kinds, ShardError, check_inside, look_up, open_array, read_output_table
from flexcare_data.variables import CATEGORIES, VARIABLES

_CELLS = [
    (variable, category)
    for variable, name in enumerate(VARIABLES)
    for category in (range(len(CATEGORIES[name])) if name in CATEGORIES else [-1])
]
COLUMN_VARIABLE = np.array([variable for variable, _ in _CELLS])
"""Variable (position in `VARIABLES`) of each of the 59 value columns, which come before the 17 observation masks."""
COLUMN_CATEGORY = np.array([category for _, category in _CELLS])
"""Category for which each value column is 1, else 0; -1 for the columns that hold the number itself."""

_VALUES: Kinds = {"<f8": (len(VARIABLES),)}
_OBSERVED: Kinds = {"|u1": (len(VARIABLES),)}
_ROW_FILES = ("index.parquet", "values.npy", "observed.npy")


def expand(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """(n, 17) values and observations to the (n, 76) matrix with columns `variables.COLUMNS`, unnormalised float64.

    `flexcare_model.data` makes the same columns, standardised, for whole batches.
    """
    cells = values[:, COLUMN_VARIABLE]
    columns = np.where(COLUMN_CATEGORY < 0, cells, cells == COLUMN_CATEGORY)
    return np.concatenate([columns, observed.astype(np.float64)], axis=1)


def series_files(task: str) -> list[str]:
    """Files below the output folder that decide the series of ``task``; those of the tails may be absent."""
    hourly, tails = Path(HOURLY_INDEX.path).parent, _tails_folder(task)
    return [f"{hourly}/{name}" for name in (*_ROW_FILES, "scaler.json")] + [f"{tails}/{name}" for name in _ROW_FILES]


def _tails_folder(task: str) -> Path:
    return Path(TAILS_INDEX.path.format(task=task)).parent


def last_rows(ranges: np.ndarray, n: int) -> np.ndarray:
    """``ranges`` (B, 2, 2) cut to the last ``n`` rows of each sample.

    Example:
        >>> last_rows(np.array([[[40, 3], [90, 1]]]), 2).tolist()
        [[[42, 1], [90, 1]]]
    """
    kept, room = ranges.copy(), np.full(len(ranges), n, np.int64)
    for part in (1, 0):
        length = np.minimum(ranges[:, part, 1], room)
        kept[:, part, 0] += ranges[:, part, 1] - length
        kept[:, part, 1] = length
        room -= length
    return kept


class Rows(NamedTuple):
    """Hourly rows: ``values`` (n, 17) float64 and ``observed`` (n, 17) uint8."""

    values: np.ndarray
    observed: np.ndarray


class HourlyRows:
    """The hourly rows of one task, memory-mapped when first used (also after pickling, in a worker process)."""

    def __init__(self, output: Path | str, task: str) -> None:
        self.output, self.task = Path(output), task
        self.folder = self.output / Path(HOURLY_INDEX.path).parent
        self.tails_folder = self.output / _tails_folder(task)

    def __reduce__(self) -> tuple[Any, ...]:
        return HourlyRows, (self.output, self.task)

    @cached_property
    def stays(self) -> Rows:
        """Rows of the full grids of all stays."""
        return _open_rows(self.folder)

    @cached_property
    def tails(self) -> Rows:
        """Rows that replace the last ones of a stay for one sample; none for most tasks."""
        if self.tails_folder.is_dir():
            return _open_rows(self.tails_folder)
        return Rows(self.stays.values[:0], self.stays.observed[:0])

    def ranges(self, samples: pl.DataFrame) -> np.ndarray:
        """Rows of each sample, int64 (n, 2, 2): two ranges (first row, number of rows), the second one often empty.

        Args:
            samples: sample_id, stay_id and n_hours as in COHORT; both ranges are empty where n_hours is null.

        Raises:
            ShardError: if an index lacks a stay, has too few rows for a sample, or points outside its arrays.
        """
        stays = samples.select(pl.when(pl.col("n_hours").is_not_null()).then("stay_id").alias("stay_id"))
        found = look_up(self.folder / "index.parquet", stays, ["stay_id"])
        n_hours, offset, available = samples["n_hours"].fill_null(0), found["offset"], found["n_hours"].fill_null(0)
        n_stay, tails = n_hours, None
        if self.tails_folder.is_dir():
            index = read_output_table(self.tails_folder / "index.parquet")
            tails = samples.select("sample_id").join(
                index, on="sample_id", how="left", maintain_order="left", validate="m:1"
            )
            n_stay = pl.select(pl.min_horizontal(n_hours, tails["start"])).to_series()
        n_tail = n_hours - n_stay
        available_tail = pl.Series([0]) if tails is None else tails["n_rows"].fill_null(0)
        beyond = int(((n_hours < 0) | (n_stay > available) | (n_tail > available_tail)).sum())
        if beyond:
            raise ShardError(
                f"{self.task}: {beyond} samples ask for more hours than their stay has in {self.folder}; rebuild it"
            )
        ranges = np.zeros((samples.height, 2, 2), np.int64)
        parts = [(self.folder, 0, offset, n_stay, self.stays)]
        if tails is not None:
            parts.append((self.tails_folder, len(self.stays.values), tails["offset"], n_tail, self.tails))
        for part, (folder, base, first, length, rows) in enumerate(parts):
            check_inside(folder / "index.parquet", first, len(rows.values))
            check_inside(folder / "index.parquet", first + length, len(rows.values))
            ranges[:, part, 0] = (base + first).fill_null(0).to_numpy()
            ranges[:, part, 1] = length.to_numpy()
        return ranges

    def read(self, ranges: np.ndarray) -> Rows:
        """The rows of one sample, ``ranges`` (2, 2), one after the other."""
        n_stays = len(self.stays.values)
        parts = []
        for first, n in ranges.tolist():
            rows, start = (self.stays, first) if first < n_stays else (self.tails, first - n_stays)
            parts.append([array[start : start + n] for array in rows])
        values, observed = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Rows(values, observed)


def _open_rows(folder: Path) -> Rows:
    values, observed = open_array(folder / "values.npy", _VALUES), open_array(folder / "observed.npy", _OBSERVED)
    if len(values) != len(observed):
        raise ShardError(f"{folder}: expected as many rows observed as values, got {len(observed)} and {len(values)}")
    return Rows(values, observed)
