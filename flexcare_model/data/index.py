"""Where the inputs of a cohort's samples are stored: readers of each modality and positions in them, and the labels.

In: a cohort table, an output folder. Out: `Inputs`, numpy columns with a row per sample.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from flexcare_data import note_ids
from flexcare_data.errors import UserError
from flexcare_data.modalities import MODALITIES
from flexcare_data.series import HourlyRows, last_rows
from flexcare_data.store.shards import read_output_table
from flexcare_data.tasks.base import Task
from flexcare_model.data.shards import ImageMaps, NoteMaps, SeriesMaps
from flexcare_model.notes.vectors import NoteVectors


class SampleError(UserError):
    """A cohort cannot be turned into samples. The message holds counts and paths, never a patient's values."""


@dataclass(frozen=True)
class Inputs:
    """What the samples of a dataset read, by modality; a row per sample.

    Attributes:
        present: (n, 3) bool, series, image, note.
        places: where each sample's input is in its reader: hourly ranges (n, 2, 2), image numbers (n,), and of each of
            at most K notes, in the order in which they are joined, its first token, how many tokens are read and how
            many are stored (n, K, 3). All int64.
        readers: see `flexcare_model.data.shards` and `flexcare_model.data.on_device`. Modalities that no sample has
            may be missing.
    """

    present: np.ndarray
    places: dict[str, np.ndarray]
    readers: dict[str, Any]

    def rows(self, rows: np.ndarray) -> Inputs:
        """The inputs of the samples at ``rows``, positions or a bool mask."""
        return replace(self, present=self.present[rows], places={name: a[rows] for name, a in self.places.items()})

    def used(self, modality: str) -> np.ndarray:
        """Places of one modality, empty (no rows, image -1) for the samples that lack it."""
        places = self.places[modality]
        has = self.present[:, MODALITIES.index(modality)].reshape(-1, *[1] * (places.ndim - 1))
        return np.where(has, places, -1 if modality == "image" else 0)

    def moved(self, modality: str, reader: Any, places: np.ndarray) -> Inputs:
        """The same inputs with another reader of one modality, and the positions in it."""
        return replace(self, places=self.places | {modality: places}, readers=self.readers | {modality: reader})


@dataclass(frozen=True)
class Located:
    """One modality of ``n`` samples: which of them have it, its reader, and their places in it."""

    present: np.ndarray
    reader: Any
    places: np.ndarray


def locate_series(output: Path, task: Task, frame: pl.DataFrame, max_hours: int) -> Located:
    """The last ``max_hours`` of the series of each sample of ``frame`` (COHORT)."""
    rows = HourlyRows(output, task.name)
    present = (frame["n_hours"].fill_null(0) > 0).to_numpy()
    return Located(present, SeriesMaps(rows), last_rows(rows.ranges(frame), max_hours))


def locate_images(output: Path, frame: pl.DataFrame) -> Located:
    """The image of each sample of ``frame`` (COHORT), where it has a tensor."""
    reader = ImageMaps(output)
    numbers = reader.locate(frame["dicom_id"])
    return Located(numbers >= 0, reader, numbers)


def locate_notes(output: Path, task: Task, frame: pl.DataFrame, max_tokens: int | None = None) -> Located:
    """The first ``max_tokens`` of the notes of each sample of ``frame`` (COHORT), one after the other.

    ``max_tokens`` None: as many as are stored of one text.
    """
    notes = NoteVectors(output / "data" / "notes")
    named = frame.select(note_ids.split("note_id")).with_row_index("_row").drop_nulls().explode("note_id")
    row = named["_row"].to_numpy()
    # Position of each note among those of its sample.
    order = np.arange(len(row)) - np.searchsorted(row, row)
    places = np.zeros((frame.height, int(order.max(initial=0)) + 1, 3), np.int64)
    found = notes.locate(named.select("note_id", pl.lit(notes.part(task.section)).alias("section")))
    places[row, order] = found[:, [0, 1, 1]]
    before = np.cumsum(places[:, :, 2], axis=1) - places[:, :, 2]
    limit = notes.max_tokens if max_tokens is None else min(max_tokens, notes.max_tokens)
    places[:, :, 1] = np.clip(limit - before, 0, places[:, :, 2])
    return Located(frame["note_id"].is_not_null().to_numpy(), NoteMaps(notes), places)


def inputs_of(n: int, found: dict[str, Located]) -> Inputs:
    """Inputs of ``n`` samples that have the modalities ``found`` only."""
    absent = np.zeros(n, dtype=bool)
    places = {
        "time_series": np.zeros((n, 2, 2), np.int64),
        "image": np.full(n, -1),
        "note": np.zeros((n, 1, 3), np.int64),
    }
    return Inputs(
        present=np.stack([found[name].present if name in found else absent for name in MODALITIES], axis=1),
        places=places | {name: located.places for name, located in found.items()},
        readers={name: located.reader for name, located in found.items()},
    )


def number_of_classes(output: Path | str, task: str) -> int:
    """Number of classes that the data defines: distinct labels of the whole cohort, numbered from 0."""
    labels = read_output_table(Path(output) / f"cohorts/{task}.parquet")["label"]
    n = labels.n_unique()
    if n and (labels.min(), labels.max()) != (0, n - 1):
        raise SampleError(f"{task}: expected labels numbered 0 to {n - 1} for {n} distinct ones, got other numbers")
    return n


def check_modalities(names: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(MODALITIES))
    if unknown:
        raise SampleError(f"expected modalities of {list(MODALITIES)}, got {unknown}")


def labels_of(task: Task, frame: pl.DataFrame) -> Tensor:
    """Labels as in a batch; -2 where the cohort has no such column."""
    lacking = [name for name in task.labels if name not in frame.columns]
    if lacking:
        frame = frame.with_columns(pl.lit(-2, dtype=pl.Int64).alias(name) for name in lacking)
    values = torch.from_numpy(frame.select(task.labels).to_numpy().astype(np.int64))
    if task.kind == "multilabel":
        return values.float()
    return values[:, 0] if task.kind == "multiclass" else values[:, 0].float()
