"""Samples of a task as a PyTorch dataset that reads the shards of an output folder.

In: `cohorts/<task>.parquet` and the shards of an output folder. Out: `Sample`, `Batch`. Snakemake is not needed. It
works with a plain loop, a DataLoader (with or without workers), Lightning and Hugging Face:

    train = load_task("results", "in_hospital_mortality", split="train")
    loader = DataLoader(train, batch_size=32, shuffle=True, collate_fn=train.collate)
    for batch in loader: ...

`TaskDataset.batch` assembles a whole batch in one step; a DataLoader calls it through ``__getitems__``. Where a dict
is needed (Hugging Face's Trainer): ``data_collator=lambda samples: vars(train.collate(samples))``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flexcare_data.modalities import IMAGE_SIDE, MODALITIES, NOTE_WIDTH
from flexcare_data.store.shards import cohort_path, read_output_table
from flexcare_data.tasks import TASKS
from flexcare_data.tasks.base import Task
from flexcare_model.data.batch import COLUMNS, MAX_HOURS, PATCHES, Batch
from flexcare_model.data.index import (
    Inputs,
    Located,
    SampleError,
    check_modalities,
    inputs_of,
    labels_of,
    locate_images,
    locate_notes,
    locate_series,
    number_of_classes,
)
from flexcare_model.data.on_device import UPLOADS
from flexcare_model.data.raw_batch import Embedder, RawBatch

NO_IMAGES = torch.zeros(0, IMAGE_SIDE, IMAGE_SIDE, dtype=torch.uint8)


@dataclass(frozen=True)
class Sample:
    """One sample. Absent modalities are None."""

    sample_id: str
    series: Tensor | None  # (hours, 76) float32, standardised
    image: Tensor | None  # (256, 256) uint8
    note: Tensor | None  # (tokens, width) float32
    label: Tensor  # () or (labels,)


class TaskDataset(Dataset):
    """The samples of one task and split, in the order of the cohort (by sample_id). Made by `load_task`.

    Attributes:
        task: the task.
        n_outputs: logits that a model needs for it.
        sample_ids, subject_ids: of the samples.
        present: (n, 3) bool, series, image, note.
        labels: (n,) float32 (binary), (n, labels) float32 (multi-label, -1 uncertain, -2 blank) or (n,) int64.
        dropped: number of samples of the cohort that were left out, by reason.
        inputs: what each sample reads, and from where.
        absent: inputs that the cohort names and the shards lack, by reason; these samples keep their other inputs.
    """

    def __init__(
        self,
        *,
        task: Task,
        n_outputs: int,
        frame: pl.DataFrame,
        labels: Tensor,
        inputs: Inputs,
        augment: bool,
        note_width: int,
        absent: dict[str, int],
        embedder: Embedder | None,
        usable: np.ndarray,
    ):
        self.task, self.n_outputs, self.absent = task, n_outputs, absent
        self.augment, self.note_width, self.embedder = augment, note_width, embedder
        self.inputs, self._frame, self._labels = inputs, frame, labels
        self.dropped: dict[str, int] = {}
        self._keep(usable, "image without tensor")
        self._keep(_any(self.present, axis=1), "no modality left")

    def _keep(self, rows: np.ndarray, reason: str | None) -> None:
        """Keep ``rows`` (bool); the others are counted as dropped for ``reason`` (None: not counted)."""
        if rows.all():
            return
        if reason:
            self.dropped = self.dropped | {reason: self.dropped.get(reason, 0) + int((~rows).sum())}
        self.inputs = self.inputs.rows(rows)
        self._frame = self._frame.filter(pl.Series(rows))
        self._labels = self._labels[torch.from_numpy(rows)]

    @property
    def sample_ids(self) -> list[str]:
        return self._frame["sample_id"].to_list()

    @property
    def subject_ids(self) -> np.ndarray:
        return self._frame["subject_id"].to_numpy()

    @property
    def present(self) -> np.ndarray:
        return self.inputs.present

    @property
    def labels(self) -> Tensor:
        return self._labels

    def __len__(self) -> int:
        return len(self.present)

    @property
    def labelled(self) -> bool:
        """False if the cohort has no labels."""
        return self.task.kind == "multilabel" or not bool((self.labels < 0).any())

    @property
    def on_device(self) -> tuple[str, ...]:
        """The modalities whose inputs are on a device (see `to`)."""
        return tuple(name for name, reader in self.inputs.readers.items() if not isinstance(reader, UPLOADS[name][0]))

    @property
    def resident(self) -> bool:
        """Whether every input that a sample has is on a device."""
        has = _any(self.present, axis=0)
        return all(name in self.on_device for name, used in zip(MODALITIES, has, strict=True) if used)

    def to(self, device: torch.device | str) -> TaskDataset:
        """The same samples with their inputs on ``device``; several datasets share them with `to_device`."""
        return to_device([self], device)[0]

    def with_present(self, present: np.ndarray) -> TaskDataset:
        """The same samples with ``present`` (n, 3) instead of their own modalities; at least one modality each.

        Raises:
            SampleError: if a sample would have a modality that it lacks, or none at all.
        """
        if (present & ~self.present).any() or not _any(present, axis=1).all():
            raise SampleError(f"{self.task.name}: expected a non-empty subset of each sample's modalities")
        return self._with(replace(self.inputs, present=present))

    def without(self, *modalities: str) -> TaskDataset:
        """The same samples without ``modalities``; samples without any modality left are dropped and counted."""
        check_modalities(modalities)
        present = self.present & ~np.isin(MODALITIES, modalities)
        other = self._with(replace(self.inputs, present=present))
        other._keep(_any(present, axis=1), "no modality left")
        return other

    def _with(self, inputs: Inputs) -> TaskDataset:
        other = copy.copy(self)
        other.inputs = inputs
        return other

    def without_augmentation(self) -> TaskDataset:
        """The same samples, their images without random flip and map."""
        other = copy.copy(self)
        other.augment = False
        return other

    def subset(self, rows: Sequence[int] | np.ndarray) -> TaskDataset:
        """The samples at ``rows``, in their order in this dataset."""
        other = copy.copy(self)
        keep = np.zeros(len(self), dtype=bool)
        keep[np.asarray(rows, dtype=np.int64)] = True
        other._keep(keep, None)
        return other

    def raw_batch(self, rows: Sequence[int] | np.ndarray) -> RawBatch:
        """The samples at ``rows`` as one batch of what the shards hold: no transform, no copy to a device."""
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        inputs = self.inputs.rows(rows)
        has_series, has_image, has_note = inputs.present.T
        ranges, texts, with_image = inputs.used("time_series"), inputs.used("note"), np.flatnonzero(has_image)
        tokens, scale, ids_of = torch.zeros(len(rows), 0, self.note_width), None, None
        if has_note.any():
            tokens, scale = inputs.readers["note"].gather(texts)
            if inputs.readers["note"].storage == "tokens":
                ids_of = torch.from_numpy(texts[:, :, 1:])
        if has_series.any():
            series = inputs.readers["time_series"].gather(ranges)
        else:
            series = torch.zeros(len(rows), 1, COLUMNS)
        images = inputs.readers["image"].gather(inputs.places["image"][with_image]) if len(with_image) else NO_IMAGES
        lengths = np.stack([ranges[:, :, 1].sum(axis=1), PATCHES * has_image, texts[:, :, 1].sum(axis=1)], axis=1)
        return RawBatch(
            series=series,
            images=images,
            image_rows=torch.from_numpy(with_image),
            tokens=tokens,
            token_scale=scale,
            texts=ids_of,
            lengths=torch.from_numpy(lengths),
            present=torch.from_numpy(inputs.present),
            label=self._labels[torch.from_numpy(rows)],
            task=self.task.id,
        )

    def finish(
        self, raw: RawBatch, device: torch.device | str = "cpu", *, generator: torch.Generator | None = None
    ) -> Batch:
        """`RawBatch.finish` with the settings of this dataset."""
        return raw.finish(
            device, augment=self.augment, generator=generator, embedder=self.embedder, note_width=self.note_width
        )

    def batch(self, rows: Sequence[int] | np.ndarray) -> Batch:
        """The samples at ``rows`` as one `Batch` on the CPU, ready for a model."""
        return self.finish(self.raw_batch(rows))

    def __getitems__(self, rows: list[int]) -> Batch:
        return self.batch(rows)

    def __getitem__(self, row: int) -> Sample:
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.task.name}: expected a sample number below {len(self)}, got {row}")
        row = row % len(self)
        raw = self.raw_batch([row])
        whole = raw.finish(embedder=self.embedder, note_width=self.note_width)
        series, image, note = self.present[row]
        return Sample(
            sample_id=self._frame["sample_id"][row],
            series=raw.series[0] if series else None,
            image=raw.images[0] if image else None,
            note=whole.note_tok[0] if note else None,
            label=raw.label[0],
        )

    def collate(self, samples: Sequence[Sample] | Batch) -> Batch:
        """One `Batch` of ``samples``, padded on the right. A `Batch` is returned unchanged."""
        if isinstance(samples, Batch):
            return samples
        n = len(samples)
        hours = [0 if s.series is None else len(s.series) for s in samples]
        pieces = [0 if s.note is None else len(s.note) for s in samples]
        series = torch.zeros(n, max(1, *hours), COLUMNS)
        tokens = torch.zeros(n, max(pieces), self.note_width)
        for i, sample in enumerate(samples):
            if sample.series is not None:
                series[i, : hours[i]] = sample.series
            if sample.note is not None:
                tokens[i, : pieces[i]] = sample.note
        images = [(i, s.image) for i, s in enumerate(samples) if s.image is not None]
        raw = RawBatch(
            series=series,
            images=torch.stack([image for _, image in images]) if images else NO_IMAGES,
            image_rows=torch.tensor([i for i, _ in images], dtype=torch.int64),
            tokens=tokens,
            token_scale=None,
            texts=None,
            lengths=torch.tensor(
                [[h, PATCHES * (s.image is not None), p] for h, s, p in zip(hours, samples, pieces, strict=True)]
            ),
            present=torch.tensor([[s.series is not None, s.image is not None, s.note is not None] for s in samples]),
            label=torch.stack([s.label for s in samples]),
            task=self.task.id,
        )
        return self.finish(raw)


def _any(present: np.ndarray, axis: int) -> np.ndarray:
    return np.logical_or.reduce(present, axis=axis)


def load_task(
    output: Path | str,
    task: str,
    split: str | None = "train",
    *,
    max_hours: int = MAX_HOURS,
    max_tokens: int | None = None,
    modalities: Iterable[str] = MODALITIES,
    augment: bool | None = None,
    cohort: Path | str | pl.DataFrame | None = None,
    embedder: Embedder | None = None,
) -> TaskDataset:
    """The samples of ``task`` as a dataset.

    Args:
        output: folder that the workflow wrote (config key `output`).
        task: name of the task, such as "in_hospital_mortality".
        split: train, val or test; None: all samples.
        max_hours: last hours of a series that are kept.
        max_tokens: first tokens of the note, or of several notes together, that are kept; None: as many as are stored
            of one text (setting `notes.max_tokens`).
        modalities: those to read; the others count as absent.
        augment: random flip and affine map of the images; None: in the train split only.
        cohort: other samples of the task than those of the output folder, a table with the columns of a cohort. Its
            label columns may be missing; the labels are then -2.
        embedder: encoder of word-piece ids, where the notes are stored as such.

    Raises:
        SampleError: if there is no such task or modality.
        StoreError: if the cohort, an index or a shard is missing or damaged, or lacks an input that the cohort names.
    """
    if task not in TASKS:
        raise SampleError(f"expected a task of {list(TASKS)}, got {task!r}")
    modalities = tuple(modalities)
    check_modalities(modalities)
    output, spec = Path(output), TASKS[task]
    frame = cohort if isinstance(cohort, pl.DataFrame) else None
    if frame is None:
        frame = read_output_table(Path(cohort or cohort_path(output, task)))
    n_outputs = spec.n_outputs or number_of_classes(output, task)
    if split is not None:
        frame = frame.filter(pl.col("split").cast(pl.String) == split)
    absent: dict[str, int] = {}
    found: dict[str, Located] = {}
    usable, note_width = np.ones(frame.height, dtype=bool), NOTE_WIDTH
    if "time_series" in modalities and frame["n_hours"].count():
        found["time_series"] = locate_series(output, spec, frame, max_hours)
    if ("image" in modalities or spec.asked_of_image) and frame["dicom_id"].count():
        images = locate_images(output, frame)
        if "image" in modalities:
            found["image"] = images
        if spec.asked_of_image:
            usable = images.present
        elif lost := int((frame["dicom_id"].is_not_null().to_numpy() & ~images.present).sum()):
            absent["image without tensor"] = lost
    if "note" in modalities and frame["note_id"].count():
        found["note"] = locate_notes(output, spec, frame, max_tokens)
        note_width = found["note"].reader.notes.width
    return TaskDataset(
        task=spec,
        n_outputs=n_outputs,
        frame=frame.select("sample_id", "subject_id"),
        labels=labels_of(spec, frame),
        inputs=inputs_of(frame.height, found),
        augment=split == "train" if augment is None else augment,
        note_width=note_width,
        absent=absent,
        embedder=embedder,
        usable=usable,
    )


def to_device(
    datasets: Sequence[TaskDataset], device: torch.device | str, *, budget: float = math.inf
) -> list[TaskDataset]:
    """The same datasets with their inputs on ``device``, up to ``budget`` bytes: series, images, then notes.

    Inputs that several datasets share are copied once. Inputs that do not fit stay memory-mapped; inputs that are
    already on a device stay there.

    Raises:
        SampleError: if the datasets are of several output folders.
    """
    moved, device = list(datasets), torch.device(device)
    for column, (name, (mapped, upload)) in enumerate(UPLOADS.items()):
        chosen = [
            k for k, data in enumerate(moved)
            if data.present[:, column].any() and isinstance(data.inputs.readers[name], mapped)
        ]  # fmt: skip
        if not chosen:
            continue
        inputs = [moved[k].inputs for k in chosen]
        readers = [i.readers[name] for i in inputs]
        if len({reader.folder for reader in readers}) > 1:
            raise SampleError("to_device: expected datasets of one output folder, got several; call it once for each")
        planned = upload(readers, [i.used(name) for i in inputs])
        if planned.nbytes > budget:
            continue
        budget -= planned.nbytes
        reader, places = planned.run(device)
        for k, own in zip(chosen, places, strict=True):
            moved[k] = moved[k]._with(moved[k].inputs.moved(name, reader, own))
    return moved
