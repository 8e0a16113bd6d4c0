"""Parts of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from flexcare_model.data.batch import Batch


def take(batch: Batch, rows: Iterable[int]) -> Batch:
    """The batch of these rows, in this order, padded to the longest of them."""
    index = torch.tensor(list(rows))
    hours, tokens = max(1, int(batch.ts_len[index].max())), int(batch.note_len[index].max())
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    part = {name: value[index] for name, value in tensors.items() if isinstance(value, Tensor)}
    part |= {"ts": part["ts"][:, :hours], "note_tok": part["note_tok"][:, :tokens]}
    return replace(batch, **part)


def joined(one: Batch, two: Batch) -> Batch:
    """The rows of ``one``, then those of ``two``."""

    def padded(parts: list[Tensor]) -> Tensor:
        longest = max(part.shape[1] for part in parts)
        return torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])

    fields_of = {field.name: [getattr(part, field.name) for part in (one, two)] for field in fields(Batch)}
    rows = {name: torch.cat(parts) for name, parts in fields_of.items() if name not in ("task", "ts", "note_tok")}
    return replace(one, **rows, ts=padded(fields_of["ts"]), note_tok=padded(fields_of["note_tok"]))
