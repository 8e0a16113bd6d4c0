"""Read hourly rows: which rows a sample uses, and the model input made of them.

In: `data/hourly/` of an output folder, a task, samples of its cohort. Out: ranges of rows, the rows, 76 columns.

The rows of a task are one array: first those of all stays, then those of `data/hourly/<task>_tails/`, where the input
of a sample ends inside an hour (diagnosis). A sample reads at most two ranges of it, one after the other.
`HourlyRows.ranges` decides which ones, `row_numbers` lists their rows; all other code only sees ranges and numbers of
rows. `stages.hourly.build_tails` writes the tails.
"""

from __future__ import annotations

from collections.abc import Sequence
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
_VALUES: Kinds = {"<f8": (len(VARIABLES),)}
_OBSERVED: Kinds = {"|u1": (len(VARIABLES),)}
_ROW_FILES = ("index.parquet", "values.npy", "observed.npy")


class ColumnPlan(NamedTuple):
    """How the 59 value columns, which come before the 17 observation masks, are made of the 17 variables.

    Each field has one entry per value column: an array, or a tensor on the device of the rows.

    Attributes:
        variable: position of its variable in `VARIABLES`.
        category: category for which the column is 1, else 0; -1 where the column is the number itself.
        mean, std: of a number that is standardised; 0 and 1 elsewhere, which change no bit.
    """

    variable: Any
    category: Any
    mean: Any
    std: Any

    def standardised(self, mean: np.ndarray, std: np.ndarray) -> ColumnPlan:
        """The plan with ``mean`` and ``std`` of the variables `CONTINUOUS`, in their order."""
        is_number, columns = self.category < 0, self._replace(mean=self.mean.copy(), std=self.std.copy())
        columns.mean[is_number], columns.std[is_number] = mean, std
        return columns


COLUMN_PLAN = ColumnPlan(
    variable=np.array([variable for variable, _ in _CELLS]),
    category=np.array([category for _, category in _CELLS]),
    mean=np.zeros(len(_CELLS)),
    std=np.ones(len(_CELLS)),
)
"""The columns `variables.COLUMNS`, not standardised."""


def expand(values: Any, observed: Any, plan: ColumnPlan = COLUMN_PLAN, xp: Any = np) -> Any:
    """Values and observations (..., 17) to float64 (..., 76) with the columns `variables.COLUMNS`.

    A value that is none of the categories of its variable, NaN included, has 0 in all of their columns. ``xp`` is the
    library of the rows and the plan: numpy or torch. Both give the same bits.
    """
    cells = values[..., plan.variable]  # a copy
    cells -= plan.mean
    cells /= plan.std
    columns = xp.where(plan.category < 0, cells, cells == plan.category)
    return xp.concatenate([columns, observed], axis=-1)


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


def row_numbers(ranges: np.ndarray) -> np.ndarray:
    """Row of each hour of each sample, int64 (B, T), for ``ranges`` (B, 2, 2); -1 after the last hour of a sample.

    T is the number of hours of the longest sample, at least 1.

    Example:
        >>> row_numbers(np.array([[[40, 2], [90, 1]], [[7, 1], [0, 0]]])).tolist()
        [[40, 41, 90], [7, -1, -1]]
    """
    first, n = ranges[:, :, :1], ranges[:, :, 1:]  # (B, 2, 1) each
    step = np.arange(max(1, int(n.sum(axis=1).max(initial=0))))
    later = step - n[:, 0]  # position in the second range
    return np.where(later < 0, first[:, 0] + step, np.where(later < n[:, 1], first[:, 1] + later, -1))


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
        """Rows that replace the last ones of the stay of a sample; no rows for most tasks."""
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
        """The rows of one sample, ``ranges`` (2, 2), or of several (B, 2, 2), one sample after the other."""
        numbers = row_numbers(ranges.reshape(-1, 2, 2))
        numbers = numbers[numbers >= 0]
        tail = numbers - len(self.stays.values)
        in_tails = tail >= 0
        rows = Rows(*(array[np.where(in_tails, 0, numbers)] for array in self.stays))
        for array, tails in zip(rows, self.tails, strict=True):
            array[in_tails] = tails[tail[in_tails]]
        return rows


class SharedRows:
    """The rows of several tasks of one output folder as one array: those of all stays once, then the tails by task."""

    def __init__(self, tasks: Sequence[HourlyRows]) -> None:
        by_name = {rows.task: rows for rows in tasks}
        self.parts = [tasks[0].stays, *(rows.tails for rows in by_name.values())]
        self._n_stays = len(self.parts[0].values)
        ends = np.cumsum([len(part.values) for part in self.parts])
        self._first_tail = dict(zip(by_name, ends[:-1].tolist(), strict=True))

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for part in self.parts for array in part)

    def read(self) -> Rows:
        """All rows, in memory."""
        return Rows(*(np.concatenate(arrays) for arrays in zip(*self.parts, strict=True)))

    def ranges(self, task: str, ranges: np.ndarray) -> np.ndarray:
        """The ``ranges`` (n, 2, 2) of the `HourlyRows` of ``task``, as ranges of these rows."""
        first = ranges[:, :, 0]
        moved = first + np.where(first < self._n_stays, 0, self._first_tail[task] - self._n_stays)
        return np.stack([moved, ranges[:, :, 1]], axis=-1)


def _open_rows(folder: Path) -> Rows:
    values, observed = open_array(folder / "values.npy", _VALUES), open_array(folder / "observed.npy", _OBSERVED)
    if len(values) != len(observed):
        raise ShardError(f"{folder}: expected as many rows observed as values, got {len(observed)} and {len(values)}")
    return Rows(values, observed)
