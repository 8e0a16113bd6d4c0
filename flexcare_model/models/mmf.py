"""MMF (Lee et al., 2023): one transformer stream per modality; the streams exchange a few bottleneck tokens.

    [b_m ; S_m] = Layer_{m,l}([b ; S_m]) for every stream;  b = mean of b_m over the modalities that are present
    logits = mean over present m of Head(LN_m(S_m[:, 0])),  Head = Linear, LayerNorm, ReLU, Linear

Streams exchange from layer ``fusion_layer`` on (0: always). ``readout: first_stream`` uses the first present stream, in
the order T, I, N, instead of the mean (the original's read-out, where time series are always present). With
``series: set`` the series is the set of its measured values, each with its time and type (UMSE of the original), see
`set_embedding.py`.

Parameters: bottlenecks (b, d), streams.<modality>.l.* (pre-norm), input_norms.*, output_norms.*, head_in.*, head_norm,
heads.<task>. What differs from the original: common embedding (by default also of the series), 4 layers of 2 heads, no
demographics, no times of image and note, LayerNorm in the head (there BatchNorm).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flexcare_data.modalities import MODALITIES
from flexcare_model.data.batch import Batch
from flexcare_model.models.base import Model, ModelConfig, Output, SettingError
from flexcare_model.models.layers import EncoderLayer, class_output, normal_parameter
from flexcare_model.models.set_embedding import SetEmbedding


class MMF(Model):
    """Details: unimodal (B, 3, d), normalised class outputs, zero where absent; stream_logits (B, 3, C); rep (B, d)."""

    name = "mmf"
    title = "MMF"
    table_order = 4
    colour = "#D55E00"
    marker = "D"
    settings = {
        "series": {
            "default": "hours", "choices": ("hours", "set"),
            "meaning": "tokens of the series: its hours, or as in the original its measured values with time and type",
        },
        "set_values": {
            "default": 1024, "least": 1, "meaning": "values of a sample that `series: set` keeps, the last ones",
        },
        "readout": {
            "default": "mean_logits", "choices": ("mean_logits", "first_stream"),
            "meaning": "mean over the streams, or that of the first one that is present: series, image, note",
        },
        "bottlenecks": {"default": 4, "least": 1, "meaning": "tokens that the streams exchange"},
        "fusion_layer": {"default": 0, "least": 0, "meaning": "first layer that exchanges them, 0 to `layers`"},
    }  # fmt: skip

    def __init__(self, config: ModelConfig, task_outputs: dict[str, int]) -> None:
        own = self.own_settings(config)
        super().__init__(config, task_outputs, with_embedding=own.series == "hours")
        width = config.hidden_dim
        if own.fusion_layer > config.layers:
            raise SettingError(f"mmf: expected fusion_layer 0 to layers ({config.layers}), got {own.fusion_layer}")
        if own.series == "set":
            rest = (config.note_width, config.max_hours, config.max_tokens, config.note_dropout, 0.02)
            self.embedding = SetEmbedding(own.set_values, width, *rest)
        self.bottlenecks = normal_parameter(own.bottlenecks, width)
        self.streams = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    EncoderLayer(width, config.heads, config.dropout, pre_norm=True) for _ in range(config.layers)
                )
                for name in MODALITIES
            }
        )
        self.input_norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in MODALITIES})
        self.output_norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in MODALITIES})
        self.head_in = nn.Linear(width, width)
        self.head_norm = nn.LayerNorm(width)
        self.heads = self.linear_heads(width)

    def forward(self, batch: Batch, *, details: bool = False) -> Output:
        name = self.check_task(batch)
        unimodal = self.encode(batch)  # (B, 3, d)
        hidden = F.relu(self.head_norm(self.head_in(unimodal)))
        stream_logits = self.heads[name](hidden)  # (B, 3, C)
        weight = batch.present.to(stream_logits.dtype)
        if self.own.readout == "first_stream":
            weight = weight * (weight.cumsum(dim=1) == 1)
        weight = (weight / weight.sum(dim=1, keepdim=True)).unsqueeze(-1)  # (B, 3, 1)
        logits = (weight * stream_logits).sum(dim=1)
        if not details:
            return Output(logits)
        rep = (weight * unimodal).sum(dim=1)
        return Output(logits, details={"unimodal": unimodal, "stream_logits": stream_logits, "rep": rep})

    def encode(self, batch: Batch) -> Tensor:
        """Class outputs of the streams after their last LayerNorm, (B, 3, d), zero where absent."""
        flat, packing = self.embedding.packed(batch, with_class=True)
        streams = [
            self.input_norms[MODALITIES[group.modality]](tokens)
            for group, tokens in zip(packing.groups, packing.split(flat), strict=True)
        ]
        count = batch.present.sum(dim=1)[:, None, None]
        bottlenecks = self.bottlenecks.expand(len(batch), -1, -1)  # (B, b, d)
        number = self.own.bottlenecks
        first = []
        for depth in range(self.config.layers):
            fused = depth >= self.own.fusion_layer
            lead, updates = number if fused else 0, []
            for place, group in enumerate(packing.groups):
                name = MODALITIES[group.modality]
                layer = cast(Sequence[EncoderLayer], self.streams[name])[depth]
                tokens, mask = streams[place], group.key_mask
                if fused:
                    tokens = torch.cat([bottlenecks.index_select(0, group.rows), tokens], dim=1)  # (b, lead + n, d)
                    mask = None if mask is None else F.pad(mask, (lead, 0), value=True)
                if depth == self.config.layers - 1:
                    output = class_output(layer, tokens, mask, slice(lead, lead + 1))[:, 0]
                    first.append(self.output_norms[name](output))
                    continue
                tokens = layer(tokens, mask)
                updates.append(tokens[:, :lead])
                streams[place] = tokens[:, lead:]
            if fused and updates:
                total = packing.scatter(updates, len(batch)).unflatten(0, (len(MODALITIES), -1)).sum(dim=0)
                bottlenecks = total / count  # mean over the streams that are present
        return packing.scatter(first, len(batch)).unflatten(0, (len(MODALITIES), -1)).transpose(0, 1)
