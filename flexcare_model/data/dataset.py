"""Samples of a task as an ordinary PyTorch dataset, straight from the shards of an output folder.

In: `cohorts/<task>.parquet` and the shards of `flexcare_model.data.shards`. Out: `Sample`, `Batch`. Snakemake is not
needed; a plain loop, a DataLoader (with or without workers), Lightning and Hugging Face all take it:

    train = load_task("results", "in_hospital_mortality", split="train")
    loader = DataLoader(train, batch_size=32, shuffle=True, collate_fn=train.collate)
    for batch in loader: ...

`TaskDataset.batch` assembles a batch at once; a DataLoader uses it by itself (``__getitems__``). Where a dict is wanted
(Hugging Face's Trainer): ``data_collator=lambda samples: vars(train.collate(samples))``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flexcare_data.tasks import TASKS, Task
from flexcare_model.data.batch import COLUMNS, MAX_LENGTH, MODALITIES, PATCHES, Batch
from flexcare_model.data.image_transforms import STORED_SIZE
from flexcare_model.data.index import (
    SampleError,
    Sources,
    check_modalities,
    labels_of,
    locate_images,
    locate_notes,
    locate_series,
    number_of_classes,
    read_table,
)
from flexcare_model.data.raw_batch import NOTE_WIDTH, Embedder, RawBatch
from flexcare_model.data.shards import NO_TAIL, NoteMaps, series_spans

NO_IMAGES = torch.zeros(0, STORED_SIZE, STORED_SIZE, dtype=torch.uint8)


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
        dropped: samples of the cohort that are not here, by reason.
        columns: (n,) arrays of where each input lies, see `flexcare_model.data.index`.
        absent: inputs that the cohort names and the shards lack, by reason; the samples keep their others.
    """

    def __init__(
        self,
        *,
        task: Task,
        n_outputs: int,
        frame: pl.DataFrame,
        labels: Tensor,
        columns: dict[str, np.ndarray],
        sources: Sources,
        max_hours: int,
        max_tokens: int,
        augment: bool,
        note_width: int,
        absent: dict[str, int],
        embedder: Embedder | None,
        usable: np.ndarray,
    ):
        self.task, self.n_outputs, self.absent = task, n_outputs, absent
        self.max_hours, self.max_tokens = max_hours, max_tokens
        self.augment, self.note_width, self.embedder = augment, note_width, embedder
        self.sources = sources
        self.columns, self._frame, self._labels = columns, frame, labels
        self.dropped: dict[str, int] = {}
        self._keep(usable, "image without tensor")
        self._keep(self.present.any(axis=1), "no modality left")

    def _keep(self, rows: np.ndarray, reason: str | None) -> None:
        """Keep ``rows`` (bool); the others are counted as dropped for ``reason`` (None: not counted)."""
        if rows.all():
            return
        if reason:
            self.dropped = self.dropped | {reason: self.dropped.get(reason, 0) + int((~rows).sum())}
        self.columns = {name: values[rows] for name, values in self.columns.items()}
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
        return self.columns["present"]

    @property
    def labels(self) -> Tensor:
        return self._labels

    def __len__(self) -> int:
        return len(self.present)

    @property
    def labelled(self) -> bool:
        """False where the cohort came without labels."""
        return self.task.kind == "multilabel" or not bool((self.labels < 0).any())

    @property
    def resident(self) -> bool:
        """Whether every input lives on a device (see `flexcare_model.data.loader`)."""
        return self.sources.resident(self.present.any(axis=0))

    def without(self, *modalities: str) -> TaskDataset:
        """The same samples with ``modalities`` taken away; samples with nothing left are dropped and counted."""
        check_modalities(modalities)
        other = copy.copy(self)
        other.columns = self.columns | {"present": self.present.copy()}
        other.present[:, [MODALITIES.index(name) for name in modalities]] = False
        other._keep(other.present.any(axis=1), "no modality left")
        return other

    def subset(self, rows: Sequence[int] | np.ndarray) -> TaskDataset:
        """The samples at ``rows``, in their order in this dataset."""
        other = copy.copy(self)
        keep = np.zeros(len(self), dtype=bool)
        keep[np.asarray(rows, dtype=np.int64)] = True
        other._keep(keep, None)
        return other

    def raw_batch(self, rows: Sequence[int] | np.ndarray, *, convert: bool = False) -> RawBatch:
        """The samples at ``rows`` as one batch of what the shards hold: no transform, no copy to a device.

        ``convert``: note vectors in float32 at once, the fastest way to a batch on the CPU; else as stored, the
        fewest bytes to send to a device.
        """
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        column = {name: values[rows] for name, values in self.columns.items()}
        present = column["present"]
        hours = np.where(present[:, 0], column["n_hours"], 0)
        spans = series_spans(column["offset"], hours, column["tail_row"], column["tail_offset"], self.max_hours)
        longest = max(1, int(spans[:, 1].max(initial=0)))
        has_series, with_image = bool(present[:, 0].any()), np.flatnonzero(present[:, 1])
        has_note = bool(present[:, 2].any())
        lengths = np.where(present[:, 2], np.minimum(column["n_tokens"], self.max_tokens), 0)
        tokens, scale = torch.zeros(len(rows), 0, self.note_width), None
        if has_note:
            notes = self.sources.notes
            if convert and isinstance(notes, NoteMaps) and notes.storage != "tokens":
                tokens = notes.gather_vectors(column["note_offset"], lengths)
            else:
                tokens, scale = notes.gather(column["note_offset"], lengths)
        if has_series:
            series = self.sources.series.gather(spans, longest)
        else:
            series = torch.zeros(len(rows), longest, COLUMNS)
        images = NO_IMAGES
        if len(with_image):
            images = self.sources.images.gather(column["image_row"][with_image])
        return RawBatch(
            series=series,
            images=images,
            image_rows=torch.from_numpy(with_image),
            tokens=tokens,
            token_scale=scale,
            lengths=torch.from_numpy(np.stack([spans[:, 1], PATCHES * present[:, 1], lengths], axis=1)),
            present=torch.from_numpy(present),
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
        return self.finish(self.raw_batch(rows, convert=True))

    def __getitems__(self, rows: list[int]) -> Batch:
        return self.batch(rows)

    def __getitem__(self, row: int) -> Sample:
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.task.name}: expected a sample number below {len(self)}, got {row}")
        row = row % len(self)
        raw = self.raw_batch([row], convert=True)
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
        """One `Batch` of ``samples``, padded on the right; a batch that is assembled already passes through."""
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
            lengths=torch.tensor(
                [[h, PATCHES * (s.image is not None), p] for h, s, p in zip(hours, samples, pieces, strict=True)]
            ),
            present=torch.tensor([[s.series is not None, s.image is not None, s.note is not None] for s in samples]),
            label=torch.stack([s.label for s in samples]),
            task=self.task.id,
        )
        return self.finish(raw)


def load_task(
    output: Path | str,
    task: str,
    split: str | None = "train",
    *,
    max_hours: int = MAX_LENGTH,
    max_tokens: int = MAX_LENGTH,
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
        max_tokens: first tokens of a note that are kept.
        modalities: those to read; the others count as absent.
        augment: random flip and affine map of the images; None: in the train split only.
        cohort: other samples of the task than those of the output folder, a table with the columns of a cohort. Its
            label columns may be missing; the labels are then -2.
        embedder: encoder of word-piece ids, where the notes are stored as such.

    Raises:
        SampleError: if the cohort or a shard index is missing, or does not know an input that the cohort names.
    """
    if task not in TASKS:
        raise SampleError(f"expected a task of {list(TASKS)}, got {task!r}")
    modalities = tuple(modalities)
    check_modalities(modalities)
    output, spec = Path(output), TASKS[task]
    frame = (
        cohort if isinstance(cohort, pl.DataFrame) else read_table(Path(cohort or output / f"cohorts/{task}.parquet"))
    )
    n_outputs = spec.n_outputs or number_of_classes(output, task)
    if split is not None:
        frame = frame.filter(pl.col("split").cast(pl.String) == split)
    n = frame.height
    columns = {
        "offset": np.zeros(n, np.int64), "n_hours": np.zeros(n, np.int64),
        "tail_row": np.full(n, NO_TAIL), "tail_offset": np.zeros(n, np.int64),
        "image_row": np.full(n, -1), "note_offset": np.zeros(n, np.int64), "n_tokens": np.zeros(n, np.int64),
        "present": np.zeros((n, 3), dtype=bool),
    }  # fmt: skip
    absent: dict[str, int] = {}
    image_shards: list[str] = []
    note_shards: list[str] = []
    if "time_series" in modalities and frame["n_hours"].count():
        columns |= locate_series(output, task, frame)
        columns["present"][:, 0] = columns["n_hours"] > 0
    usable = np.ones(n, dtype=bool)
    if ("image" in modalities or spec.asked_of_image) and frame["dicom_id"].count():
        columns["image_row"], image_shards = locate_images(output, frame)
        has_tensor = columns["image_row"] >= 0
        columns["present"][:, 1] = has_tensor & ("image" in modalities)
        if spec.asked_of_image:
            usable = has_tensor
        else:
            absent["image without tensor"] = int((frame["dicom_id"].is_not_null().to_numpy() & ~has_tensor).sum())
    note_width = NOTE_WIDTH
    if "note" in modalities and frame["note_id"].count():
        columns["note_offset"], columns["n_tokens"], note_shards = locate_notes(output, spec, frame)
        columns["present"][:, 2] = frame["note_id"].is_not_null().to_numpy()
    sources = Sources(output, task, image_shards, note_shards)
    if note_shards and sources.notes.storage != "tokens":
        note_width = sources.notes.rows.row_shape[0]
    return TaskDataset(
        task=spec,
        n_outputs=n_outputs,
        frame=frame.select("sample_id", "subject_id"),
        labels=labels_of(spec, frame),
        columns=columns,
        sources=sources,
        max_hours=max_hours,
        max_tokens=max_tokens,
        augment=split == "train" if augment is None else augment,
        note_width=note_width,
        absent={reason: count for reason, count in absent.items() if count},
        embedder=embedder,
        usable=usable,
    )
