"""One batch of samples of one task: the only input of a model.

Shapes: B samples, T hours (longest in the batch, at least 1), N note tokens (longest in the batch, may be 0).
Modalities have one order everywhere: time series, image, note (T, I, N).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from flexcare_data import discovery, variables
from flexcare_data.modalities import MODALITIES
from flexcare_data.tasks import TASKS
from flexcare_data.tasks.base import Task

COLUMNS = len(variables.COLUMNS)
"""Width of the time series (76 as published)."""
IMAGE_SIZE = 224
PATCH_SIZE = 16
PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
MAX_LENGTH = 512
"""Longest series in hours and longest note in tokens."""


@cache
def task_of(task_id: int) -> Task:
    """The task with this id (the row of the embedding table)."""
    known = {task.id: task.name for task in discovery.tasks().values()}
    if task_id not in known:
        raise ValueError(f"batch: expected a task id of {sorted(known)}, got {task_id}")
    return TASKS[known[task_id]]


def single_task(task_ids: Iterable[int]) -> int:
    """The one task id of the samples of a batch.

    Raises:
        ValueError: if the samples belong to no task or to several; loaders are made per task.
    """
    distinct = sorted({int(task_id) for task_id in task_ids})
    if len(distinct) != 1:
        raise ValueError(f"batch: expected samples of one task, got task ids {distinct}; make one loader per task")
    return distinct[0]


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one task.

    Attributes:
        ts: (B, T, 76) float, standardised, right padded; position 0 is the oldest kept hour.
        ts_len: (B,) int64, hours of each series, 0 where absent.
        img: (B, 3, 224, 224) float, ImageNet-normalised; anything where absent.
        note_tok: (B, N, 768) float16 or float32, token vectors of the frozen encoder, right padded.
        note_len: (B,) int64, 0 where absent (and for a note without word pieces).
        present: (B, 3) bool in the order T, I, N; at least one True per row.
        label: (B,) for binary and multi-class tasks, (B, C) for multi-label ones (-1 uncertain, -2 blank).
        task: id of the one task of the batch.
        visible: (B, 3) int64, **always on the CPU**: visible positions of each block, which is its class token and
            its contents; 0 where absent. Models plan their work with it, without waiting for the GPU.
            Made from the other fields if not given.
    """

    ts: Tensor
    ts_len: Tensor
    img: Tensor
    note_tok: Tensor
    note_len: Tensor
    present: Tensor
    label: Tensor
    task: int
    visible: Tensor = None  # type: ignore[assignment]  # made in __post_init__

    def __post_init__(self) -> None:
        if self.visible is None:
            object.__setattr__(self, "visible", self._count_visible())

    def _count_visible(self) -> Tensor:
        lengths = torch.stack([self.ts_len, torch.full_like(self.ts_len, PATCHES), self.note_len], dim=1)
        return torch.where(self.present, lengths + 1, 0).to("cpu", torch.int64)

    def __len__(self) -> int:
        return self.present.shape[0]

    @property
    def device(self) -> torch.device:
        return self.present.device

    @property
    def task_name(self) -> str:
        return task_of(self.task).name

    @property
    def rows(self) -> np.ndarray:
        """``present`` (B, 3) as an array on the CPU; does not wait for the device."""
        return self.visible.numpy() > 0

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Batch:
        """The batch with its tensors on ``device``; ``visible`` stays on the CPU."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())

    def take(self, rows: Iterable[int]) -> Batch:
        """The batch of these rows, in this order, padded to the longest of them."""
        index = torch.as_tensor(list(rows), dtype=torch.int64)
        hours = max(1, int((self.visible[index, 0] - 1).max()))
        tokens = max(0, int((self.visible[index, 2] - 1).max()))
        part = self._map(lambda tensor: tensor[index.to(tensor.device)])
        return replace(part, ts=part.ts[:, :hours], note_tok=part.note_tok[:, :tokens], visible=self.visible[index])

    def check(self) -> Batch:
        """Return the batch if all its invariants hold.

        Raises:
            ValueError: names the field, what was expected and what was found (shapes and counts, never values).
        """
        task = task_of(single_task(torch.as_tensor(self.task).flatten().tolist()))
        size = len(self)
        if size == 0:
            raise ValueError("batch: expected at least one sample, got none")
        hours, tokens = self.ts.shape[1], self.note_tok.shape[1]
        shapes = {
            "ts": (size, hours, COLUMNS),
            "ts_len": (size,),
            "img": (size, 3, IMAGE_SIZE, IMAGE_SIZE),
            "note_tok": (size, tokens, self.note_tok.shape[-1]),
            "note_len": (size,),
            "present": (size, 3),
            "label": (size, len(task.labels)) if task.kind == "multilabel" else (size,),
            "visible": (size, 3),
        }
        for name, expected in shapes.items():
            got = tuple(getattr(self, name).shape)
            if got != expected:
                raise ValueError(f"batch: {name} expected shape {expected}, got {got} ({task.name}, {size} samples)")
        if not 1 <= hours <= MAX_LENGTH or tokens > MAX_LENGTH:
            raise ValueError(
                f"batch: expected 1 to {MAX_LENGTH} hours and at most {MAX_LENGTH} note tokens, "
                f"got {hours} and {tokens}; keep the last hours and the first tokens"
            )
        for name in ("ts", "img", "note_tok"):
            if not getattr(self, name).is_floating_point():
                raise ValueError(f"batch: {name} expected a float dtype, got {getattr(self, name).dtype}")
        if self.present.dtype != torch.bool:
            raise ValueError(f"batch: present expected bool, got {self.present.dtype}")
        self._check_lengths(hours, tokens)
        return self

    def _check_lengths(self, hours: int, tokens: int) -> None:
        present = self.present.cpu()
        empty = int((~present.any(dim=1)).sum())
        if empty:
            raise ValueError(f"batch: {empty} of {len(self)} rows have no modality, expected at least one per row")
        for name, column, limit, least in (("ts_len", 0, hours, 1), ("note_len", 2, tokens, 0)):
            length = getattr(self, name).cpu()
            wrong = int(((length > limit) | (length < 0)).sum())
            if wrong:
                raise ValueError(f"batch: {wrong} values of {name} outside 0 to {limit}, the padded length")
            wrong = int((length[~present[:, column]] != 0).sum())
            if wrong:
                raise ValueError(f"batch: {wrong} values of {name} above 0 where {MODALITIES[column]} is absent")
            wrong = int((length[present[:, column]] < least).sum())
            if wrong:
                raise ValueError(f"batch: {wrong} values of {name} are 0 where {MODALITIES[column]} is present")
        if not torch.equal(self.visible, self._count_visible()):
            raise ValueError("batch: visible does not agree with present, ts_len and note_len")

    def _map(self, change) -> Batch:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {
            name: change(value) for name, value in tensors.items() if isinstance(value, Tensor) and name != "visible"
        }
        return replace(self, **changed)
