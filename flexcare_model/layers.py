"""Blocks shared by the models: the common embedding, the transformer layer, and packing.

Packing is what makes the models fast: rows without a modality are left out, rows of similar length are padded
together, and all groups lie one after another in one flat tensor, so that every linear layer is one product over the
tokens that exist. Only attention sees the groups. Shapes: B samples, d = hidden_dim, n tokens of a flat tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from flexcare_model.batch import COLUMNS, MAX_LENGTH, MODALITIES, PATCH_SIZE, PATCHES, Batch

GROUP_COST = {"cpu": 32, "cuda": 16384}
"""What one more group costs, in tokens: a group is a handful of small kernels, and a GPU has tokens to spare."""

CHUNK = 2**22
"""Attention weights held at a time where a CPU computes them one by one (16 MiB in float32)."""
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Attention kernels on a GPU: not cuDNN's, which plans anew for every shape, and here each batch has its own."""


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
    """How sequences lie in a flat tensor: group after group, row after row, each padded to its group's width."""

    def __init__(self, lengths: list[np.ndarray], device: torch.device) -> None:
        """Plan for ``lengths``, (B,) per modality, 0 where a row takes no part."""
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
        """Bring what groups say about their sequences, ``parts`` of (b, ...), to (M * rows, ...); zeros elsewhere.

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


class Embedding(nn.Module):
    """Equation (1): contents of the three modalities as tokens of width d, with one class token per modality.

    Parameters: ``time_series`` (W_T, b_T), ``image`` (the 16x16 patch convolution), ``note`` (W_N, b_N),
    ``*_position`` (Pos^m, zero at first), ``class_tokens`` (3, d) in the order T, I, N.
    """

    def __init__(self, width: int, note_width: int, max_hours: int, note_dropout: float, class_std: float) -> None:
        super().__init__()
        self.note_dropout = note_dropout
        self.time_series = nn.Linear(COLUMNS, width)
        self.image = nn.Conv2d(3, width, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)
        self.note = nn.Linear(note_width, width)
        self.time_series_position = nn.Parameter(torch.zeros(max_hours, width))
        self.image_position = nn.Parameter(torch.zeros(PATCHES, width))
        self.note_position = nn.Parameter(torch.zeros(MAX_LENGTH, width))
        self.class_tokens = nn.Parameter(torch.randn(3, width) * class_std if class_std else torch.zeros(3, width))

    def packed(self, batch: Batch, *, with_class: bool) -> tuple[Tensor, Packing]:
        """Contents of all modalities, packed (n, d); with the class token in front of each sequence if asked.

        What absent modalities and padding contain has no effect, NaN included.
        """
        visible = batch.visible.numpy()
        lengths = visible if with_class else np.maximum(visible - 1, 0)
        packing = Packing([lengths[:, m] for m in range(len(MODALITIES))], batch.device)
        parts = []
        for group in packing.groups:
            width = group.width - int(with_class)
            mask = group.mask[:, int(with_class) :] if group.mask is not None else None
            tokens = self.contents(batch, group.modality, width, group.rows, mask)  # (b, width, d)
            if with_class:
                token = self.class_tokens[group.modality].to(tokens.dtype).expand(len(tokens), 1, -1)
                tokens = torch.cat([token, tokens], dim=1)  # (b, 1 + width, d)
            parts.append(tokens)
        if not parts:
            return self.class_tokens.new_zeros(0, self.class_tokens.shape[1]), packing
        return packing.join(parts), packing

    def contents(
        self, batch: Batch, modality: int, width: int, rows: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Content tokens of one modality with position embedding, (b, width, d), for ``rows`` (all if None).

        ``mask`` (b, width) is False where the input is padding, which is replaced by zeros.
        """
        name = MODALITIES[modality]
        if width > len(getattr(self, f"{name}_position")):
            raise ValueError(
                f"{name}: expected at most {len(getattr(self, f'{name}_position'))} positions, got {width}; "
                "cut the input or raise the model's max_hours"
            )
        source = batch.img if name == "image" else (batch.ts if name == "time_series" else batch.note_tok)[:, :width]
        if rows is not None and (len(rows) < len(source) or name != "image"):
            source = source.index_select(0, rows)
        weight, position = getattr(self, name).weight, getattr(self, f"{name}_position")
        source = source.to(weight.dtype)
        if name == "image":
            if mask is not None:
                source = source.masked_fill(~mask.any(dim=1)[:, None, None, None], 0)
            tokens = self.image(source).flatten(2).transpose(1, 2)  # (b, 196, d), patches row by row
        else:
            if mask is not None:
                source = source.masked_fill(~mask.unsqueeze(-1), 0)
            if name == "note" and self.note_dropout:
                source = F.dropout(source, self.note_dropout, self.training)
            tokens = getattr(self, name)(source)
        return tokens + position[:width]


class EncoderLayer(nn.Module):
    """One transformer layer, equations (2)-(3): attention, then W2 relu(W1 x), each with dropout and residual.

    Post-norm (the default) normalises each sum; pre-norm each branch's input. Against
    ``torch.nn.TransformerEncoderLayer``: ``attention_in`` is self_attn.in_proj, ``attention_out`` self_attn.out_proj,
    ``expand`` linear1, ``contract`` linear2, ``attention_norm`` norm1, ``feedforward_norm`` norm2.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, pre_norm: bool = False) -> None:
        super().__init__()
        self.heads, self.dropout, self.pre_norm = heads, dropout, pre_norm
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.feedforward_norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.attention_in.weight)
        nn.init.zeros_(self.attention_in.bias)
        nn.init.zeros_(self.attention_out.bias)

    def project(self, x: Tensor, parts: str = "qkv") -> Tensor:
        """Queries, keys and values side by side: ``x`` (..., d) to (..., len(parts) * d) for qkv, q or kv."""
        if self.pre_norm:
            x = self.attention_norm(x)
        width = x.shape[-1]
        if parts == "qkv":
            return self.attention_in(x)
        first, last = {"q": (0, 1), "kv": (1, 3)}[parts]
        rows = slice(first * width, last * width)
        return F.linear(x, self.attention_in.weight[rows], self.attention_in.bias[rows])

    def split_heads(self, projected: Tensor) -> tuple[Tensor, ...]:
        """(b, n, parts * d) to ``parts`` tensors (b, heads, n, d / heads)."""
        parts = projected.shape[-1] // self.attention_out.in_features
        return projected.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of (b, heads, n, d / heads) tensors, heads merged again: (b, n, d)."""
        out = attention(query, key, value, mask, self.dropout if self.training else 0.0)
        return out.transpose(1, 2).flatten(2)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The layer's output from its input ``x`` (..., d) and what was attended, of the same shape."""
        x = x + F.dropout(self.attention_out(attended), self.dropout, self.training)
        if self.pre_norm:
            return x + self._feedforward(self.feedforward_norm(x))
        x = self.attention_norm(x)
        return self.feedforward_norm(x + self._feedforward(x))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The layer over padded sequences (b, n, d); ``mask`` is bool, True where a position may read."""
        return self.finish(x, self.attend(*self.split_heads(self.project(x)), mask))

    def dense(self, x: Tensor, mask: Tensor) -> Tensor:
        """As `forward` by one plain call over everything; ``mask`` may also be float, which is added to the logits."""
        query, key, value = self.split_heads(self.project(x))
        mask = mask.to(query.dtype) if mask.is_floating_point() else mask
        out = _fused(query, key, value, mask, self.dropout if self.training else 0.0)
        return self.finish(x, out.transpose(1, 2).flatten(2))

    def _feedforward(self, x: Tensor) -> Tensor:
        active = self.training and self.dropout > 0
        hidden = DropoutRelu.apply(self.expand(x), self.dropout) if active else F.relu(self.expand(x))
        return F.dropout(self.contract(hidden), self.dropout, self.training)


class DropoutRelu(torch.autograd.Function):
    """dropout(relu(x)) that keeps its output only: that is above 0 exactly where the gradient passes."""

    @staticmethod
    def forward(ctx, x: Tensor, dropout: float) -> Tensor:
        out = F.dropout(F.relu(x), dropout, training=True)
        ctx.save_for_backward(out)
        ctx.dropout = dropout
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        return torch.where(out > 0, gradient / (1 - ctx.dropout), 0), None


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """softmax(Q K^T / sqrt(d_head) + mask) V, with dropout on the weights, by torch's fused kernels.

    On a CPU no fused kernel knows dropout. There it is done a few rows at a time, and the weights are computed again
    for the gradient instead of being kept: memory grows with the tokens and not with their square.
    """
    if not dropout or query.device.type != "cpu" or not torch.is_grad_enabled():
        return _fused(query, key, value, mask, dropout)
    rows = max(1, CHUNK // (query.shape[1] * query.shape[2] * key.shape[2]))
    masks = [None] * len(query) if mask is None else mask.expand(len(query), -1, -1, -1).split(rows)
    chunks = zip(query.split(rows), key.split(rows), value.split(rows), masks, strict=False)
    return torch.cat([checkpoint(_fused, *chunk, dropout, use_reentrant=False) for chunk in chunks])


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    if query.device.type == "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    with sdpa_kernel(KERNELS):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


class UnimodalEncoders(nn.Module):
    """Uni_m: one transformer encoder per modality over its class token and contents, weights of their own."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {name: nn.ModuleList(EncoderLayer(width, heads, dropout) for _ in range(layers)) for name in MODALITIES}
        )

    def forward(self, batch: Batch, embedding: Embedding) -> Tensor:
        """The vector of each modality u_m, (B, 3, d): output at its class token; zeros where absent."""
        return self._run(batch, embedding, keep_contents=False)[0]

    def sequences(self, batch: Batch, embedding: Embedding) -> tuple[Tensor, Tensor, Packing]:
        """As `forward`, and the outputs at all positions, packed (n, d) with the class token first."""
        return self._run(batch, embedding, keep_contents=True)

    def _run(self, batch: Batch, embedding: Embedding, keep_contents: bool) -> tuple[Tensor, Tensor, Packing]:
        flat, packing = embedding.packed(batch, with_class=True)
        parts, first = [], []
        for tokens, group in zip(packing.split(flat), packing.groups, strict=True):
            layers = self.encoders[MODALITIES[group.modality]]
            for layer in layers[:-1]:
                tokens = layer(tokens, group.key_mask)  # (b, width, d)
            if keep_contents:
                tokens = layers[-1](tokens, group.key_mask)
                parts.append(tokens)
                first.append(tokens[:, 0])
            else:  # the last layer only at the class token, the one position that is read
                first.append(class_output(layers[-1], tokens, group.key_mask, slice(0, 1))[:, 0])
        vectors = packing.scatter(first, len(batch)).unflatten(0, (3, -1)).transpose(0, 1)  # (B, 3, d)
        return vectors, packing.join(parts) if parts else flat, packing


def class_output(layer: EncoderLayer, tokens: Tensor, mask: Tensor | None, at: slice) -> Tensor:
    """Output of ``layer`` at the positions ``at`` only, which read all ``tokens`` (b, n, d)."""
    (query,) = layer.split_heads(layer.project(tokens[:, at], "q"))
    key, value = layer.split_heads(layer.project(tokens, "kv"))
    return layer.finish(tokens[:, at], layer.attend(query, key, value, mask))


class SampleSequences:
    """One sequence per sample: ``lead`` leading tokens of its own, then the contents of its modalities.

    Attributes:
        packing: how these sequences lie; its groups are in the order of all lists here.
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
            spans = [(row * lead, lead, np.arange(lead))]
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
    """``tokens[index]``, where each token has one place in the result at most (``inverse``, -1 for none).

    What is put into padding, which nobody may read, gets no gradient. So the gradient is a gather too: the same on
    every run, where a scatter-add on a GPU is not, and faster.
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


def normal_parameter(*shape: int, std: float = 0.02) -> nn.Parameter:
    """A parameter drawn from N(0, std^2)."""
    return nn.Parameter(torch.randn(*shape) * std)
