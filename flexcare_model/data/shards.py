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

from flexcare_data.modalities import IMAGE_SIDE
from flexcare_data.series import COLUMN_PLAN, ColumnPlan, HourlyRows, expand, row_numbers
from flexcare_data.store.shards import Kinds, ShardedRows, ShardError, check_inside, look_up, read_output_table
from flexcare_data.variables import COLUMNS, CONTINUOUS
from flexcare_model.notes.vectors import NoteVectors

_IMAGES: Kinds = {"|u1": (IMAGE_SIDE, IMAGE_SIDE)}


class SeriesMaps:
    """Hourly rows of a task to (B, T, 76) float32: one-hot, standardised, right padded with zeros."""

    def __init__(self, rows: HourlyRows):
        self.rows, self.folder = rows, rows.folder

    @cached_property
    def plan(self) -> ColumnPlan:
        """The columns, standardised with mean and standard deviation of the continuous variables."""
        path = self.folder / "scaler.json"
        scaler = json.loads(path.read_text())
        if tuple(scaler["columns"]) != CONTINUOUS or not all(std > 0 for std in scaler["std"]):
            raise ShardError(f"{path}: expected {CONTINUOUS}, each with a std above 0")
        return COLUMN_PLAN.standardised(scaler["mean"], scaler["std"])

    def gather(self, ranges: np.ndarray) -> Tensor:
        """Series of a batch, (B, T, 76), for ``ranges`` (B, 2, 2) as `HourlyRows.ranges` gives them."""
        has_row = row_numbers(ranges) >= 0  # (B, T)
        series = np.zeros((*has_row.shape, len(COLUMNS)), dtype=np.float32)
        series[has_row] = expand(*self.rows.read(ranges), self.plan)
        return torch.from_numpy(series)


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
        """Tokens of the notes at ``places`` (B, K, 3), see `flexcare_model.data.index.Inputs`.

        The notes of a sample follow each other; each sample is right padded with zeros to the longest.

        Returns:
            (B, N, width) as stored, or (B, N) ids, which are those of whole texts, as a text is embedded as a whole;
            for int8 the scales (B, N), else None.
        """
        scales = self.notes.scales
        spans = spans_read(places, self.storage)
        return _gather_ragged(self.notes.rows, spans), None if scales is None else _gather_ragged(scales, spans)


def spans_read(places: np.ndarray, storage: str) -> np.ndarray:
    """First token and number of tokens (..., 2) that are read from the shards for ``places`` (..., 3).

    Of word-piece ids whole texts, unless nothing of a text is kept.
    """
    first, kept, stored = places[..., 0], places[..., 1], places[..., 2]
    return np.stack([first, np.where(kept > 0, stored, 0) if storage == "tokens" else kept], axis=-1)


def _gather_ragged(rows: ShardedRows, places: np.ndarray) -> Tensor:
    longest = int(places[:, :, 1].sum(axis=1).max(initial=0))
    out = np.empty((len(places), longest, *rows.row_shape), dtype=rows.dtype)
    for sample, notes in zip(out, places, strict=True):
        end = 0
        for first, n in notes:
            if n:
                sample[end : end + n] = rows.read(first, n)
                end += n
        sample[end:] = 0
    return torch.from_numpy(out)
