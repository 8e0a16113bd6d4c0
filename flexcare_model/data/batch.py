"""One batch of samples of one task: the only input of a model.

Shapes: B samples, T hours (longest in the batch, at least 1), N note tokens (longest in the batch, may be 0).
Modalities have one order everywhere: time series, image, note (T, I, N).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from flexcare_data import discovery, variables
from flexcare_data.tasks import TASKS
from flexcare_data.tasks.base import Task

COLUMNS = len(variables.COLUMNS)
"""Width of the time series (76 as published)."""
CROP_SIDE = 224
"""Height and width in pixels of an image as a model reads it: the centre of a stored one."""
PATCH_SIZE = 16
PATCHES = (CROP_SIDE // PATCH_SIZE) ** 2
MAX_HOURS = 512
"""Hours of a series that are read: the last ones."""


@cache
def task_of(task_id: int) -> Task:
    """The task with this id (the row of the embedding table)."""
    known = {task.id: task.name for task in discovery.tasks().values()}
    if task_id not in known:
        raise ValueError(f"batch: expected a task id of {sorted(known)}, got {task_id}")
    return TASKS[known[task_id]]


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one task.

    Attributes:
        ts: (B, T, 76) float, standardised, right padded; position 0 is the oldest kept hour.
        ts_len: (B,) int64, hours of each series, 0 where absent.
        img: (B, 3, 224, 224) float, ImageNet-normalised; undefined where absent.
        note_tok: (B, N, width) float16 or float32, token vectors of the frozen encoder, right padded.
        note_len: (B,) int64, 0 where absent (and for a note without word pieces).
        present: (B, 3) bool in the order T, I, N; at least one True per row.
        label: (B,) for binary and multi-class tasks, (B, C) for multi-label ones (-1 uncertain, -2 blank).
        task: id of the one task of the batch.
        visible: (B, 3) int64, **always on the CPU**: visible positions of each block, which is its class token and
            its contents; 0 where absent. Made from the other fields if not given. Models plan their work with it on the
            CPU; a copy of the lengths from the GPU would wait there until all earlier batches are computed.
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
        """The batch in page-locked memory; a `DataLoader` with ``pin_memory=True`` calls it."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change) -> Batch:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {
            name: change(value) for name, value in tensors.items() if isinstance(value, Tensor) and name != "visible"
        }
        return replace(self, **changed)
