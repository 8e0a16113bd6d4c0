"""Where the inputs of a cohort's samples lie in the shards: positions, labels, and the shards themselves.

In: a cohort table and the indices below `data/`. Out: arrays of global positions (see `flexcare_model.data.shards`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from flexcare_data.errors import UserError
from flexcare_data.store.folders import check_format
from flexcare_data.tasks import Task
from flexcare_model.data.batch import MODALITIES
from flexcare_model.data.shards import (
    IMAGES,
    NO_TAIL,
    NOTES,
    ImageMaps,
    ImagesOnDevice,
    NoteMaps,
    NotesOnDevice,
    SeriesMaps,
    SeriesOnDevice,
    ShardedRows,
    open_hours,
)


class SampleError(UserError):
    """A cohort cannot be turned into samples. The message holds counts and paths, never a patient's values."""


class Sources:
    """The shards that the samples of a task point at, opened when first used (also in a DataLoader worker)."""

    def __init__(self, output: Path, task: str, image_shards: list[str], note_shards: list[str]):
        self.data, self.task = output / "data", task
        self.image_shards, self.note_shards = image_shards, note_shards

    def __reduce__(self):
        # Memory maps do not travel to workers; each opens its own.
        return Sources, (self.data.parent, self.task, self.image_shards, self.note_shards)

    @property
    def tails(self) -> Path | None:
        """Folder of the hours that end inside an hour, where the task has such."""
        folder = self.data / "hourly" / f"{self.task}_tails"
        return folder if folder.exists() else None

    @cached_property
    def series(self) -> SeriesMaps | SeriesOnDevice:
        return SeriesMaps(self.data / "hourly", self.tails)

    @cached_property
    def images(self) -> ImageMaps | ImagesOnDevice:
        return ImageMaps(ShardedRows(self.data / "cxr" / "shards", self.image_shards, IMAGES))

    @cached_property
    def notes(self) -> NoteMaps | NotesOnDevice:
        return NoteMaps(ShardedRows(self.data / "notes" / "shards", self.note_shards, NOTES))

    def resident(self, needed: np.ndarray) -> bool:
        """Whether the sources of the ``needed`` modalities (3,) are on a device; memory maps are not opened for it."""
        kinds = {"series": SeriesOnDevice, "images": ImagesOnDevice, "notes": NotesOnDevice}
        on_device = [isinstance(self.__dict__.get(name), kind) for name, kind in kinds.items()]
        return all(on for on, use in zip(on_device, needed, strict=True) if use)


def number_of_classes(output: Path | str, task: str) -> int:
    """Outputs of a task whose number the data decides: distinct labels of its whole cohort, numbered from 0."""
    labels = read_table(Path(output) / f"cohorts/{task}.parquet")["label"]
    n = labels.n_unique()
    if n and (labels.min(), labels.max()) != (0, n - 1):
        raise SampleError(f"{task}: expected labels numbered 0 to {n - 1} for {n} distinct ones, got other numbers")
    return n


def check_modalities(names: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(MODALITIES))
    if unknown:
        raise SampleError(f"expected modalities of {list(MODALITIES)}, got {unknown}")


def read_table(path: Path) -> pl.DataFrame:
    if not path.exists():
        raise SampleError(f"{path}: no such table; build it with `snakemake cohorts` or check the output folder")
    return pl.read_parquet(check_format(path))


def _index(path: Path, ids: pl.DataFrame, on: list[str]) -> pl.DataFrame:
    """Rows of an index for ``ids`` in their order; an id that the index lacks is an error."""
    index = read_table(path).with_columns(pl.lit(True).alias("known"))
    index = index.with_columns(pl.col(name).cast(ids.schema[name]) for name in on)
    found = ids.join(index, on=on, how="left", maintain_order="left", validate="m:1")
    lacking = found.filter(pl.col(on[0]).is_not_null() & pl.col("known").is_null()).height
    if lacking:
        raise SampleError(f"{path}: lacks {lacking} of the {on[0]} values that the cohort names; rebuild it")
    return found


def locate_series(output: Path, task: str, frame: pl.DataFrame) -> dict[str, np.ndarray]:
    hourly = output / "data" / "hourly"
    stays = frame.select(pl.when(pl.col("n_hours").is_not_null()).then("stay_id").alias("stay_id"))
    found = _index(hourly / "index.parquet", stays, ["stay_id"])
    n_hours = frame["n_hours"].fill_null(0).to_numpy().astype(np.int64)
    tail_row, tail_offset = np.full(frame.height, NO_TAIL), np.zeros(frame.height, np.int64)
    tails = hourly / f"{task}_tails" / "index.parquet"
    if tails.exists():
        own = frame.select("sample_id").join(read_table(tails), on="sample_id", how="left", maintain_order="left")
        tail_row = own["start"].fill_null(NO_TAIL).to_numpy().astype(np.int64)
        tail_offset = own["offset"].fill_null(0).to_numpy().astype(np.int64)
    beyond = int((np.minimum(n_hours, tail_row) > found["n_hours"].fill_null(0).to_numpy()).sum())
    if beyond:
        raise SampleError(f"{task}: {beyond} samples ask for more hours than their stay has in {hourly}; rebuild it")
    rows, last = len(open_hours(hourly)[0]), found["offset"] + found["n_hours"]
    _check_spans(hourly / "index.parquet", found["offset"], pl.Series([rows]))
    _check_spans(hourly / "index.parquet", last, pl.Series([rows]))
    if tails.exists():
        ends = own["offset"] + pl.Series(n_hours) - own["start"]
        rows = len(open_hours(tails.parent)[0])
        _check_spans(tails, own["offset"], pl.Series([rows]))
        _check_spans(tails, ends, pl.Series([rows]))
    return {
        "offset": found["offset"].fill_null(0).to_numpy().astype(np.int64),
        "n_hours": n_hours,
        "tail_row": tail_row,
        "tail_offset": tail_offset,
    }


def _shard_spans(names: pl.Series, rows: ShardedRows) -> tuple[pl.Series, pl.Series]:
    """First global row and length of the shard of each name."""
    first = dict(zip(rows.names, rows.base.tolist(), strict=False))
    length = {name: len(array) for name, array in zip(rows.names, rows.arrays, strict=True)}
    return tuple(names.replace_strict(known, default=None, return_dtype=pl.Int64) for known in (first, length))


def _check_spans(index: Path, numbers: pl.Series, largest: pl.Series) -> None:
    """Raise SampleError unless all ``numbers`` lie from 0 to ``largest``: outside lies another's data, or none."""
    outside = int(((numbers < 0) | (numbers > largest)).sum())
    if outside:
        raise SampleError(f"{index}: {outside} entries point outside their shard; rebuild it")


def locate_images(output: Path, frame: pl.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Global row of each image, -1 where it has no tensor, and the shards in their order."""
    found = _index(output / "data/cxr/index.parquet", frame.select("dicom_id"), ["dicom_id"])
    shards = read_table(output / "data/cxr/index.parquet")["shard"].drop_nulls().unique().sort().to_list()
    rows = ShardedRows(output / "data/cxr/shards", shards, IMAGES)
    first, length = _shard_spans(found["shard"], rows)
    _check_spans(output / "data/cxr/index.parquet", found["row"], length - 1)
    return (first + found["row"]).fill_null(-1).to_numpy().astype(np.int64), shards


def locate_notes(output: Path, task: Task, frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Global first token and number of tokens of each note, and the shards in their order."""
    path = output / "data/notes/index.parquet"
    ids = frame.select("note_id", pl.lit(task.section).alias("section"))
    found = _index(path, ids, ["note_id", "section"])
    shards = [f"{stem}.npy" for stem in read_table(path)["shard"].unique().sort()]
    rows = ShardedRows(output / "data/notes/shards", shards, NOTES)
    first, length = _shard_spans(found["shard"] + ".npy", rows)
    _check_spans(path, found["n_tokens"], length)
    _check_spans(path, found["offset"], length - found["n_tokens"])
    offset = (first + found["offset"]).fill_null(0).to_numpy().astype(np.int64)
    return offset, found["n_tokens"].fill_null(0).to_numpy().astype(np.int64), shards


def labels_of(task: Task, frame: pl.DataFrame) -> Tensor:
    """Labels as in a batch; -2 where the cohort has no such column."""
    lacking = [name for name in task.labels if name not in frame.columns]
    if lacking:
        frame = frame.with_columns(pl.lit(-2, dtype=pl.Int64).alias(name) for name in lacking)
    values = torch.from_numpy(frame.select(task.labels).to_numpy().astype(np.int64))
    if task.kind == "multilabel":
        return values.float()
    return values[:, 0] if task.kind == "multiclass" else values[:, 0].float()
