"""Invariants of a batch, and parts of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

import torch
from torch import Tensor

from flexcare_data.modalities import MODALITIES
from flexcare_model.data.batch import COLUMNS, CROP_SIDE, MAX_HOURS, Batch, task_of


def checked(batch: Batch) -> Batch:
    """``batch``, whose shapes, types and lengths agree."""
    task, size = task_of(batch.task), len(batch)
    hours, tokens = batch.ts.shape[1], batch.note_tok.shape[1]
    shapes = {
        "ts": (size, hours, COLUMNS),
        "ts_len": (size,),
        "img": (size, 3, CROP_SIDE, CROP_SIDE),
        "note_tok": (size, tokens, batch.note_tok.shape[-1]),
        "note_len": (size,),
        "present": (size, 3),
        "label": (size, len(task.labels)) if task.kind == "multilabel" else (size,),
        "visible": (size, 3),
    }
    assert {name: tuple(getattr(batch, name).shape) for name in shapes} == shapes
    assert size > 0 and 1 <= hours <= MAX_HOURS
    assert all(getattr(batch, name).is_floating_point() for name in ("ts", "img", "note_tok"))
    present = batch.present.cpu()
    assert present.dtype == torch.bool and present.any(dim=1).all()
    for length, modality, longest, shortest in ((batch.ts_len, 0, hours, 1), (batch.note_len, 2, tokens, 0)):
        own = length.cpu()[present[:, modality]]
        assert ((own >= shortest) & (own <= longest)).all(), MODALITIES[modality]
        assert not length.cpu()[~present[:, modality]].any(), MODALITIES[modality]
    assert torch.equal(batch.visible, replace(batch, visible=None).visible)
    return batch


def take(batch: Batch, rows: Iterable[int]) -> Batch:
    """The batch of these rows, in this order, padded to the longest of them."""
    index = torch.tensor(list(rows))
    hours, tokens = max(1, int(batch.ts_len[index].max())), int(batch.note_len[index].max())
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    part = {name: value[index] for name, value in tensors.items() if isinstance(value, Tensor)}
    part |= {"ts": part["ts"][:, :hours], "note_tok": part["note_tok"][:, :tokens]}
    return replace(batch, **part)
