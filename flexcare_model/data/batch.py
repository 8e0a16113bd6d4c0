"""One batch of samples of one task: the only input of a model.

Shapes: B samples, T hours (longest in the batch, at least 1), N note tokens (longest in the batch, may be 0).
Modalities have one order everywhere: time series, image, note (T, I, N).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from flexcare_data import discovery, variables
from flexcare_data.errors import UserError
from flexcare_data.modalities import MODALITIES
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


class BatchError(UserError):
    """A batch whose parts do not agree. The message holds counts, shapes and names, never a patient's values."""


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

    def check(self) -> Batch:
        """The batch itself, if shapes, types, lengths and presence agree. Every loader calls it.

        It reads shapes and ``visible``, which are on the CPU, so it never waits for a GPU. Only for a batch on the CPU
        does it compare ``visible`` with the lengths and with ``present``: `RawBatch.finish` makes all of them from the
        same tensors.

        Raises:
            BatchError: names the field, what was expected and what was found.
        """
        task, size = task_of(self.task), len(self)
        hours, tokens = self.ts.shape[1], self.note_tok.shape[1]
        shapes = {
            "ts": (size, hours, COLUMNS),
            "ts_len": (size,),
            "img": (size, 3, CROP_SIDE, CROP_SIDE),
            "note_tok": (size, tokens, self.note_tok.shape[-1]),
            "note_len": (size,),
            "present": (size, len(MODALITIES)),
            "label": (size, len(task.labels)) if task.kind == "multilabel" else (size,),
            "visible": (size, len(MODALITIES)),
        }
        for name, shape in shapes.items():
            if (found := tuple(getattr(self, name).shape)) != shape:
                self._refuse(f"expected {name} of shape {shape}, got {found}")
        if not size:
            self._refuse("expected at least one sample, got none")
        if not 1 <= hours <= MAX_HOURS:
            self._refuse(f"expected ts of 1 to {MAX_HOURS} hours, got {hours}")
        for name in ("ts", "img", "note_tok"):
            if not (value := getattr(self, name)).is_floating_point():
                self._refuse(f"expected {name} of a float type, got {value.dtype}")
        if self.present.dtype != torch.bool:
            self._refuse(f"expected present of type bool, got {self.present.dtype}")
        visible = self.visible.numpy()
        if empty := int((visible <= 0).all(axis=1).sum()):
            self._refuse(f"expected a modality in every sample, got {empty} of {size} without any")
        for m, shortest, longest in ((0, 1, hours), (1, PATCHES, PATCHES), (2, 0, tokens)):
            length = visible[:, m] - 1
            if wrong := int(((length != -1) & ((length < shortest) | (length > longest))).sum()):
                self._refuse(
                    f"expected a {MODALITIES[m]} of {shortest} to {longest} positions where there is one, got {wrong} "
                    f"of {size} samples with another length"
                )
        if self.device.type == "cpu":
            if not torch.equal(self.visible, self._count_visible()):
                self._refuse("expected visible to be made from present, ts_len and note_len, got other numbers")
            for name, m in (("ts_len", 0), ("note_len", 2)):
                if wrong := int((getattr(self, name)[~self.present[:, m]] != 0).sum()):
                    self._refuse(f"expected {name} 0 where there is no {MODALITIES[m]}, got {wrong} samples above 0")
        return self

    def _refuse(self, problem: str) -> NoReturn:
        raise BatchError(f"batch of {self.task_name}: {problem}")

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
