"""Memory-mapped inputs of an output folder that assemble whole batches on the CPU.

In: `data/hourly/`, `data/cxr/`, `data/notes/`. Out: tensors of a batch. Each modality has one reader here, and one in
`flexcare_model.data.on_device` with the same ``gather``, whose inputs are tensors of a device. The operating system's
page cache is the buffer. A reader can be pickled; a worker process opens its own maps.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from flexcare_data.compiled import compiled
from flexcare_data.modalities import IMAGE_SIDE
from flexcare_data.series import COLUMN_CATEGORY, COLUMN_VARIABLE, HourlyRows
from flexcare_data.store.shards import Kinds, ShardedRows, ShardError, check_inside, look_up, read_output_table
from flexcare_data.variables import COLUMNS, CONTINUOUS, VARIABLES
from flexcare_model.notes.vectors import NoteVectors

_IMAGES: Kinds = {"|u1": (IMAGE_SIDE, IMAGE_SIDE)}

# The column plan of `flexcare_data.series` in the form of the inner loop: a one-hot variable is one write, not a
# comparison per category.
_FIRST_COLUMN = np.searchsorted(COLUMN_VARIABLE, np.arange(len(VARIABLES)))
_N_CATEGORIES = np.bincount(COLUMN_VARIABLE, weights=COLUMN_CATEGORY >= 0).astype(np.int64)
_NUMBERS = np.stack([COLUMN_VARIABLE, np.arange(len(COLUMN_VARIABLE))], axis=1)[COLUMN_CATEGORY < 0]
"""(variable, column) of the columns that hold a number."""
_ONE_HOT = np.stack([np.arange(len(VARIABLES)), _FIRST_COLUMN, _N_CATEGORIES], axis=1)[_N_CATEGORIES > 0]
"""(variable, first column, categories) of the one-hot variables."""


@compiled
def _write_hours(out, b, t, values, observed, first, n, numbers, one_hot, mean, std):
    """Expand rows ``first`` .. ``first + n`` to the 76 columns at ``out[b, t:t + n]``."""
    n_variables = values.shape[1]
    n_values = out.shape[2] - n_variables
    for k in range(n):
        row = first + k
        for c in range(n_values):
            out[b, t + k, c] = 0.0
        for i in range(numbers.shape[0]):
            out[b, t + k, numbers[i, 1]] = (values[row, numbers[i, 0]] - mean[i]) / std[i]
        for i in range(one_hot.shape[0]):
            chosen = int(values[row, one_hot[i, 0]])
            if 0 <= chosen < one_hot[i, 2]:
                out[b, t + k, one_hot[i, 1] + chosen] = 1.0
        for v in range(n_variables):
            out[b, t + k, n_values + v] = observed[row, v]


@compiled
def _fill_series(out, values, observed, tail_values, tail_observed, ranges, numbers, one_hot, mean, std):
    """Write the 76 columns of each sample into ``out`` (B, T, 76), zeros after its last hour.

    ``ranges`` (B, 2, 2): first row and number of rows; rows from ``len(values)`` on are those of the tails.
    """
    n_stays = values.shape[0]
    for b in range(out.shape[0]):
        t = 0
        for part in range(ranges.shape[1]):
            first, n = ranges[b, part, 0], ranges[b, part, 1]
            if first < n_stays:
                _write_hours(out, b, t, values, observed, first, n, numbers, one_hot, mean, std)
            else:
                first -= n_stays
                _write_hours(out, b, t, tail_values, tail_observed, first, n, numbers, one_hot, mean, std)
            t += n
        out[b, t:] = 0.0


def longest_series(ranges: np.ndarray) -> int:
    """Hours of the longest series of a batch, at least 1."""
    return max(1, int(ranges[:, :, 1].sum(axis=1).max(initial=0)))


class SeriesMaps:
    """Hourly rows of a task to (B, T, 76) float32: one-hot, standardised, right padded with zeros."""

    def __init__(self, rows: HourlyRows):
        self.rows, self.folder = rows, rows.folder

    @cached_property
    def scaler(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the continuous variables."""
        path = self.folder / "scaler.json"
        scaler = json.loads(path.read_text())
        if tuple(scaler["columns"]) != CONTINUOUS or not all(std > 0 for std in scaler["std"]):
            raise ShardError(f"{path}: expected {CONTINUOUS}, each with a std above 0")
        return np.array(scaler["mean"], dtype=np.float64), np.array(scaler["std"], dtype=np.float64)

    def gather(self, ranges: np.ndarray) -> Tensor:
        """Series of a batch, (B, T, 76), for ``ranges`` (B, 2, 2) as `HourlyRows.ranges` gives them."""
        out = np.empty((len(ranges), longest_series(ranges), len(COLUMNS)), dtype=np.float32)
        _fill_series(out, *self.rows.stays, *self.rows.tails, ranges, _NUMBERS, _ONE_HOT, *self.scaler)
        return torch.from_numpy(out)


class ImageMaps:
    """Radiographs, (256, 256) uint8 each. An image has a number: its row in the shards, in their order."""

    def __init__(self, output: Path):
        self.folder = Path(output) / "data" / "cxr"

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageMaps, (self.folder.parents[1],)

    @cached_property
    def rows(self) -> ShardedRows:
        names = read_output_table(self.folder / "index.parquet")["shard"].drop_nulls().unique().sort().to_list()
        return ShardedRows(self.folder / "shards", names, _IMAGES)

    def locate(self, dicom_ids: pl.Series) -> np.ndarray:
        """Number of each image, int64 (n,); -1 where it has no tensor, and for a null."""
        path = self.folder / "index.parquet"
        found = look_up(path, dicom_ids.to_frame("dicom_id"), ["dicom_id"])
        first, length = self.rows.spans(found["shard"])
        check_inside(path, found["row"], length - 1)
        return (first + found["row"]).fill_null(-1).to_numpy().astype(np.int64)

    def gather(self, numbers: np.ndarray) -> Tensor:
        """Images with these ``numbers`` (n,), as (n, 256, 256)."""
        out = np.empty((len(numbers), IMAGE_SIDE, IMAGE_SIDE), dtype=np.uint8)
        for place, number in zip(out, numbers, strict=True):
            place[...] = self.rows.read(number, 1)[0]
        return torch.from_numpy(out)


class NoteMaps:
    """Token vectors or word-piece ids of notes, padded to the batch."""

    def __init__(self, notes: NoteVectors):
        self.notes, self.folder = notes, notes.folder

    @property
    def storage(self) -> str:
        return self.notes.storage

    def gather(self, places: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Tokens at ``places`` (B, 2), first token and number of tokens, right padded with zeros to the longest.

        Returns:
            (B, N, width) as stored, or (B, N) ids; for int8 the scales (B, N), else None.
        """
        scales = self.notes.scales
        return _gather_ragged(self.notes.rows, places), None if scales is None else _gather_ragged(scales, places)

    def gather_vectors(self, places: np.ndarray) -> Tensor:
        """As `gather`, converted to float32: (B, N, width). Not for ids."""
        out = np.empty((len(places), int(places[:, 1].max(initial=0)), self.notes.width), dtype=np.float32)
        for place, (first, n) in zip(out, places, strict=True):
            if n:
                vectors, scale = self.notes.read(first, n)
                if scale is None:
                    torch.from_numpy(place[:n]).copy_(torch.from_numpy(vectors))
                else:
                    _dequantize(place, vectors, scale.astype(np.float32))
            place[n:] = 0.0
        return torch.from_numpy(out)


@compiled
def _dequantize(out, levels, scale):
    """`flexcare_model.notes.storage.dequantize` into an existing array, without a temporary one."""
    for t in range(levels.shape[0]):
        for k in range(levels.shape[1]):
            out[t, k] = np.float32(levels[t, k]) * scale[t]


def _gather_ragged(rows: ShardedRows, places: np.ndarray) -> Tensor:
    out = np.empty((len(places), int(places[:, 1].max(initial=0)), *rows.row_shape), dtype=rows.dtype)
    for place, (first, n) in zip(out, places, strict=True):
        if n:
            place[:n] = rows.read(first, n)
        place[n:] = 0
    return torch.from_numpy(out)
