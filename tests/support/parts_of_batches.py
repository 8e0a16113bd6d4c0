"""Parts of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

import torch
from torch import Tensor

from flexcare_model.data.batch import Batch


def take(batch: Batch, rows: Iterable[int]) -> Batch:
    """The batch of these rows, in this order, padded to the longest of them."""
    index = torch.tensor(list(rows))
    hours, tokens = max(1, int(batch.ts_len[index].max())), int(batch.note_len[index].max())
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    part = {name: value[index] for name, value in tensors.items() if isinstance(value, Tensor)}
    part |= {"ts": part["ts"][:, :hours], "note_tok": part["note_tok"][:, :tokens]}
    return replace(batch, **part)
