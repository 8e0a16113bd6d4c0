"""Hourly grids as their readers see them: how many rows, which rows are a sample's, what their columns are.

In: `data/hourly/` of an output folder, a task. Out: values and observations of one sample, memory-mapped, and the
matrix that a model sees.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from flexcare_data.variables import CATEGORIES, VARIABLES

TOLERANCE = 1e-6
"""Hours; times and ends that differ by less count as equal (published, 3.6 ms)."""


def n_bins(end_hours: np.ndarray | float) -> np.ndarray:
    """Rows of a grid that ends at ``end_hours``: the last one may be part of an hour."""
    return np.maximum(np.trunc(np.asarray(end_hours, np.float64) + 1 - TOLERANCE), 0).astype(np.int64)


def expand(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """(n, 17) values and observations to the (n, 76) matrix with columns `variables.COLUMNS`, unnormalised float64."""
    parts = []
    for j, name in enumerate(VARIABLES):
        column = values[:, j]
        parts.append(np.eye(len(CATEGORIES[name]))[column.astype(np.int64)] if name in CATEGORIES else column[:, None])
    return np.concatenate([*parts, observed.astype(np.float64)], axis=1)


class SeriesReader:
    """The hourly rows of the samples of one task.

    A sample's rows are the first ``n_hours`` of its stay; where its input ends inside an hour (diagnosis), its own
    last rows replace those of the stay from ``start`` on.
    """

    def __init__(self, output: Path, task: str) -> None:
        folder = output / "data" / "hourly"
        self._stays = _index(folder, "stay_id", "offset")
        self._arrays = _arrays(folder)
        tails = folder / f"{task}_tails"
        self._tails = _index(tails, "sample_id", "start", "offset", "n_rows") if tails.is_dir() else {}
        self._tail_arrays = _arrays(tails) if self._tails else None

    def rows(self, sample_id: str, stay_id: int, n_hours: int) -> tuple[np.ndarray, np.ndarray]:
        """values (n_hours, 17) float64 and observed (n_hours, 17) uint8 of one sample."""
        (offset,) = self._stays[stay_id]
        tail = self._tails.get(sample_id)
        n_stay = n_hours if tail is None else tail[0]
        parts = [array[offset : offset + n_stay] for array in self._arrays]
        if tail is not None and self._tail_arrays is not None:
            _, first, n_rows = tail
            parts = [
                np.concatenate([part, array[first : first + n_rows]])
                for part, array in zip(parts, self._tail_arrays, strict=True)
            ]
        return parts[0], parts[1]


def _index(folder: Path, key: str, *columns: str) -> dict:
    frame = pl.read_parquet(folder / "index.parquet", columns=[key, *columns])
    return {row[0]: row[1:] for row in frame.select(key, *columns).iter_rows()}


def _arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in ("values.npy", "observed.npy"))  # type: ignore[return-value]
