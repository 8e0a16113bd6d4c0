"""Packing of a batch: rows without a modality are left out, rows of similar length are padded together.

All groups are concatenated in one flat tensor, so that a linear layer is one product over the tokens that exist; only
attention is computed per group. Plans are made on the CPU from ``Batch.visible``, without waiting for the GPU.
Shapes: B samples, n tokens of a flat tensor, b rows of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flexcare_data.modalities import MODALITIES
from flexcare_model.data.batch import Batch

GROUP_COST = {"cpu": 32, "cuda": 16384}
"""Cost of one more group, in tokens: each group needs several small kernels, and on a GPU padding is cheaper.

On one CPU thread a FlexCare step (32 samples of phenotyping) takes 0.8 s with a cost of 32 and 5 s with 16384.
"""


@dataclass(frozen=True)
class Group:
    """Rows of the batch padded together.

    Attributes:
        modality: number of the modality, or 0 where sequences mix them.
        rows: (b,) int64, row of each sequence in the batch.
        lengths: (b,) int64, visible tokens of each.
        width: tokens of the longest; every sequence takes this many places.
        mask: (b, width) True at visible tokens; None where all are.
        start: place of the first token in the flat tensor.
    """

    modality: int
    rows: Tensor
    lengths: Tensor
    width: int
    mask: Tensor | None
    start: int

    @property
    def key_mask(self) -> Tensor | None:
        """The mask for attention, (b, 1, 1, width)."""
        return None if self.mask is None else self.mask[:, None, None]


class Packing:
    """Layout of sequences in a flat tensor: group after group, row after row, each padded to its group's width."""

    def __init__(self, lengths: list[np.ndarray], device: torch.device) -> None:
        """Plan for ``lengths``, (B,) per modality, 0 where a row is left out."""
        cost = GROUP_COST.get(device.type, GROUP_COST["cuda"])
        plans = [(m, rows) for m, length in enumerate(lengths) for rows in group_rows(length, cost)]
        numbers = [part for m, rows in plans for part in (rows, lengths[m][rows])]
        flat = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *numbers])).to(device, non_blocking=True)
        parts = flat.split([len(part) for part in numbers])  # one copy to the device for all groups
        self.groups: list[Group] = []
        self.starts = np.full((len(lengths), len(lengths[0])), -1, dtype=np.int64)  # first token of each sequence
        start = 0
        for number, (m, rows) in enumerate(plans):
            length = lengths[m][rows]
            width = int(length.max())
            on_device = parts[2 * number + 1]
            padded = bool((length != width).any())
            mask = torch.arange(width, device=device) < on_device[:, None] if padded else None
            self.groups.append(Group(m, parts[2 * number], on_device, width, mask, start))
            self.starts[m, rows] = start + width * np.arange(len(rows))
            start += width * len(rows)
        self.size = start

    def split(self, flat: Tensor) -> list[Tensor]:
        """Groups of ``flat`` (n, ...) as (b, width, ...), views."""
        sizes = [len(group.rows) * group.width for group in self.groups]
        parts = flat.split(sizes) if sizes else []  # one node in the graph, its gradient one concatenation
        return [part.unflatten(0, (-1, group.width)) for part, group in zip(parts, self.groups, strict=True)]

    @staticmethod
    def join(parts: list[Tensor]) -> Tensor:
        """The flat tensor (n, ...) of groups (b, width, ...)."""
        return torch.cat([part.flatten(0, 1) for part in parts])

    def add(self, flat: Tensor, vectors: Tensor) -> Tensor:
        """``flat`` (n, d) plus the vector of each token's modality, ``vectors`` (M, d)."""
        if not self.groups:
            return flat
        parts = zip(self.groups, self.split(flat), strict=True)
        return self.join([part + vectors[group.modality] for group, part in parts])

    def scatter(self, parts: list[Tensor], rows: int) -> Tensor:
        """Scatter ``parts``, one (b, ...) per group with a row per sequence, to (M * rows, ...); zeros elsewhere.

        The sequence of modality m and row r goes to m * rows + r.
        """
        values = torch.cat(parts)
        index = torch.cat([group.rows + group.modality * rows for group in self.groups])
        return values.new_zeros(len(self.starts) * rows, *values.shape[1:]).index_copy(0, index, values)


def group_rows(lengths: np.ndarray, cost: int) -> list[np.ndarray]:
    """Divide the rows with a length above 0 into groups of similar length, longest first.

    Minimises padded tokens plus ``cost`` per group over all divisions of the rows sorted by length.

    Example:
        >>> [rows.tolist() for rows in group_rows(np.array([3, 90, 0, 4, 100]), cost=32)]
        [[4, 1], [3, 0]]
    """
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    ordered = lengths[order]
    best = np.zeros(len(order) + 1, dtype=np.int64)  # cost of the first j rows
    begin = np.zeros(len(order) + 1, dtype=np.int64)  # where the last group of the first j rows begins
    for j in range(1, len(order) + 1):
        total = best[:j] + ordered[:j] * (j - np.arange(j)) + cost
        begin[j] = total.argmin()
        best[j] = total[begin[j]]
    groups, end = [], len(order)
    while end:
        groups.append(order[begin[end] : end])
        end = begin[end]
    return groups[::-1]


class SampleSequences:
    """One sequence per sample: its ``lead`` leading tokens, then the contents of its modalities.

    Attributes:
        packing: layout of these sequences; all lists here are in the order of its groups.
        types: per group (b, width): 0 .. lead-1 for the leading tokens, lead + m for contents of m, lead + 3 for
            padding.
    """

    def __init__(self, batch: Batch, lead: int, contents: Packing, skip: int = 0) -> None:
        """``contents`` holds the packed contents; the first ``skip`` tokens of its sequences are left out."""
        size, device = len(batch), batch.device
        lengths = np.maximum(batch.visible.numpy() - 1, 0)  # (B, 3)
        self.packing = Packing([lead + lengths.sum(axis=1)], device)
        index = np.zeros(self.packing.size, dtype=np.int64)
        types = np.full(self.packing.size, lead + len(MODALITIES), dtype=np.int64)
        inverse = np.full(size * lead + contents.size, -1, dtype=np.int64)
        for row in range(size):
            place = self.packing.starts[0, row]
            spans: list[tuple[int, int, int | np.ndarray]] = [(row * lead, lead, np.arange(lead))]
            for m, length in enumerate(lengths[row]):
                spans.append((size * lead + contents.starts[m, row] + skip, length, lead + m))
            for source, length, kind in spans:
                index[place : place + length] = source + np.arange(length)
                types[place : place + length] = kind
                inverse[source : source + length] = place + np.arange(length)
                place += length
        parts = torch.from_numpy(np.concatenate([index, types, inverse])).to(device, non_blocking=True)
        self.index, kinds, self.inverse = parts.split([len(index), len(types), len(inverse)])
        self.complete = bool((inverse >= 0).all())
        self.types = self.packing.split(kinds)

    def split(self, tokens: Tensor) -> list[Tensor]:
        """Groups (b, width, w) of ``tokens`` (B * lead + n, w): leading tokens row by row, then packed contents."""
        return self.packing.split(Rearrange.apply(tokens, self.index, self.inverse, self.complete))


class Rearrange(torch.autograd.Function):
    """``tokens[index]``, where each token has at most one position in the result (``inverse``, -1 for none).

    Padding is never read, so values in it get no gradient, and the gradient is a gather too. The gradient of torch's
    index_select is a scatter-add. On a GPU its deterministic form sorts the index and adds up the padding tokens, which
    all have index 0, one after the other. On a CPU both take the same time.
    """

    @staticmethod
    def forward(ctx, tokens: Tensor, index: Tensor, inverse: Tensor, complete: bool) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.complete = complete
        return tokens.index_select(0, index)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        if ctx.complete:
            return gradient.index_select(0, inverse), None, None, None
        back = gradient.index_select(0, inverse.clamp(min=0)).masked_fill(inverse.unsqueeze(1) < 0, 0)
        return back, None, None, None
