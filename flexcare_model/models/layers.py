"""Blocks shared by the models: the common embedding, the transformer layer, the unimodal encoders.

Shapes: B samples, d = hidden_dim, n tokens of a packed tensor (see `flexcare_model.models.packing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from flexcare_data.modalities import MODALITIES
from flexcare_model.data.batch import COLUMNS, PATCH_SIZE, PATCHES, Batch
from flexcare_model.models.packing import Packing

CHUNK = 2**22
"""Attention weights in memory at a time where a CPU computes them in parts (16 MiB in float32)."""
KEPT = 2**20
"""Up to this number, weights are kept for the gradient; above it they are computed again."""
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Attention kernels on a GPU. Not cuDNN's, which plans for every new shape, and here every batch has another shape."""


class Embedding(nn.Module):
    """Equation (1): contents of the three modalities as tokens of width d, with one class token per modality.

    Parameters: ``time_series`` (W_T, b_T), ``image`` (the 16x16 patch convolution), ``note`` (W_N, b_N),
    ``*_position`` (Pos^m, zero at first), ``class_tokens`` (3, d) in the order T, I, N.
    """

    def __init__(
        self, width: int, note_width: int, max_hours: int, max_tokens: int, note_dropout: float, class_std: float
    ) -> None:
        super().__init__()
        self.note_dropout = note_dropout
        self.time_series = nn.Linear(COLUMNS, width)
        self.image = nn.Conv2d(3, width, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)
        self.note = nn.Linear(note_width, width)
        self.time_series_position = nn.Parameter(torch.zeros(max_hours, width))
        self.image_position = nn.Parameter(torch.zeros(PATCHES, width))
        self.note_position = nn.Parameter(torch.zeros(max_tokens, width))
        self.class_tokens = nn.Parameter(torch.randn(3, width) * class_std if class_std else torch.zeros(3, width))

    def packed(self, batch: Batch, *, with_class: bool) -> tuple[Tensor, Packing]:
        """Contents of all modalities, packed (n, d); each sequence begins with its class token if ``with_class``.

        The contents of absent modalities and padding have no effect, NaN included.
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
                f"cut the input or raise the model's {'max_tokens' if name == 'note' else 'max_hours'}"
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

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None) -> Tensor:
        """Attention of (b, heads, n, d / heads) tensors, heads merged again: (b, n, d)."""
        out = attention(query, key, value, mask, self.dropout if self.training else 0.0)
        return out.transpose(1, 2).flatten(2)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The layer's output from its input ``x`` (..., d) and the attention output, of the same shape."""
        x = x + F.dropout(self.attention_out(attended), self.dropout, self.training)
        if self.pre_norm:
            return x + self._feedforward(self.feedforward_norm(x))
        x = self.attention_norm(x)
        return self.feedforward_norm(x + self._feedforward(x))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The layer over padded sequences (b, n, d); ``mask`` is bool, True where a position may read."""
        return self.finish(x, self.attend(*self.split_heads(self.project(x)), mask=mask))

    def dense(self, x: Tensor, mask: Tensor) -> Tensor:
        """As `forward`, with one call of plain attention; ``mask`` may also be float: it is added to the logits."""
        query, key, value = self.split_heads(self.project(x))
        mask = mask.to(query.dtype) if mask.is_floating_point() else mask
        out = _fused(query, key, value, mask, self.dropout if self.training else 0.0)
        return self.finish(x, out.transpose(1, 2).flatten(2))

    def _feedforward(self, x: Tensor) -> Tensor:
        active = self.training and self.dropout > 0
        hidden = DropoutRelu.apply(self.expand(x), self.dropout) if active else F.relu(self.expand(x))
        return F.dropout(self.contract(hidden), self.dropout, self.training)


class DropoutRelu(torch.autograd.Function):
    """dropout(relu(x)) that saves only its output, which is above 0 exactly where the gradient passes.

    torch's own operations also save the output of relu and the dropout mask: a FlexCare step on 32 phenotyping samples
    (``tests/bench/bench_model_step.py``) then keeps 405 MiB for the gradient instead of 322. The time is the same.
    """

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

    On a CPU no fused kernel supports dropout. It is computed a few rows at a time, and many weights are computed again
    for the gradient instead of being kept: memory grows with the number of tokens, not with its square.
    """
    if not dropout or query.device.type != "cpu" or not torch.is_grad_enabled():
        return _fused(query, key, value, mask, dropout)
    weights = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    if weights <= KEPT:
        return _with_dropout(query, key, value, mask, dropout)
    rows = max(1, CHUNK * len(query) // weights)
    masks = [None] * len(query) if mask is None else mask.expand(len(query), -1, -1, -1).split(rows)
    chunks = zip(query.split(rows), key.split(rows), value.split(rows), masks, strict=False)
    return torch.cat([checkpoint(_with_dropout, *chunk, dropout, use_reentrant=False) for chunk in chunks])


def _with_dropout(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    # As torch's unfused kernel, without its case for rows without a key; every mask here leaves each row a key.
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return F.dropout(logits.softmax(dim=-1), dropout) @ value


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    if query.device.type == "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    with sdpa_kernel(KERNELS):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


class UnimodalEncoders(nn.Module):
    """Uni_m: one transformer encoder per modality over its class token and contents, with separate weights."""

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
            layers = cast(Sequence[EncoderLayer], self.encoders[MODALITIES[group.modality]])
            for layer in layers[:-1]:
                tokens = layer(tokens, group.key_mask)  # (b, width, d)
            if keep_contents:
                tokens = layers[-1](tokens, group.key_mask)
                parts.append(tokens)
                first.append(tokens[:, 0])
            else:  # the last layer only at the class token, the only position that is used
                first.append(class_output(layers[-1], tokens, group.key_mask, slice(0, 1))[:, 0])
        vectors = packing.scatter(first, len(batch)).unflatten(0, (3, -1)).transpose(0, 1)  # (B, 3, d)
        return vectors, packing.join(parts) if parts else flat, packing


def class_output(layer: EncoderLayer, tokens: Tensor, mask: Tensor | None, at: slice) -> Tensor:
    """Output of ``layer`` at the positions ``at`` only, which read all ``tokens`` (b, n, d)."""
    (query,) = layer.split_heads(layer.project(tokens[:, at], "q"))
    key, value = layer.split_heads(layer.project(tokens, "kv"))
    return layer.finish(tokens[:, at], layer.attend(query, key, value, mask=mask))


def normal_parameter(*shape: int, std: float = 0.02) -> nn.Parameter:
    """A parameter drawn from N(0, std^2)."""
    return nn.Parameter(torch.randn(*shape) * std)
