"""MT (Ma et al., CVPR 2022): a single-stream transformer whose class tokens read the present modalities.

One encoder over [g_0 | g_T, g_I, g_N | H^T + e_T | H^I + e_I | H^N + e_N]: g_0 reads all contents, g_m those of m, no
token reads a class token; contents read their own modality in the layers below ``fusion_layer`` and all contents
from there on (0: in all layers; ``layers``: never). The answer is that of g_0; with ``answer: present`` that of g_m
where m is the only modality of the sample. Loss = L(answer) + ``aux_weight`` * mean over m of L(g_m), where L(g_m) is
taken over the samples that have m, and m over the modalities that the batch has.

Parameters: joint_token (g_0), embedding.class_tokens (g_m), modality_embedding (3, d) (e_m), encoder.l.*,
heads.<task> (one head for all class tokens).
No official code exists. Left out: pre-training, the search for the fusion layer, class tokens of modality pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flexcare_data.modalities import MODALITIES
from flexcare_model.data.batch import Batch
from flexcare_model.models.base import Model, ModelConfig, Output, Readout, SettingError, readout_loss
from flexcare_model.models.layers import EncoderLayer, class_output, normal_parameter
from flexcare_model.models.losses import prediction_loss
from flexcare_model.models.packing import SampleSequences

LEAD = 1 + len(MODALITIES)


class MT(Model):
    """Details: class_outputs (B, 4, d) of g_0, g_T, g_I, g_N; rep (B, d), the one that gives the answer."""

    name = "mt"
    title = "MT"
    table_order = 2
    colour = "#E69F00"
    marker = "s"
    settings = {
        "fusion_layer": {
            "default": 0, "least": 0,
            "meaning": "first layer whose contents read all modalities, 0 to `layers`; the original searches it",
        },
        "answer": {
            "default": "joint", "choices": ("joint", "present"),
            "meaning": "class token that answers: the joint one, or as in the original that of the only modality of a "
            "sample that has one",
        },
        "aux_weight": {
            "default": 1.0, "least": 0.0, "meaning": "weight of the losses of the class tokens of single modalities",
        },
    }  # fmt: skip

    def __init__(self, config: ModelConfig, task_outputs: dict[str, int]) -> None:
        super().__init__(config, task_outputs)
        width = config.hidden_dim
        if self.own.fusion_layer > config.layers:
            raise SettingError(f"mt: expected fusion_layer 0 to layers ({config.layers}), got {self.own.fusion_layer}")
        self.joint_token = normal_parameter(1, width)
        self.modality_embedding = normal_parameter(len(MODALITIES), width)
        self.encoder = nn.ModuleList(EncoderLayer(width, config.heads, config.dropout) for _ in range(config.layers))
        self.heads = self.linear_heads(width)

    def forward(self, batch: Batch, *, details: bool = False) -> Output:
        name = self.check_task(batch)
        lead = self.encode(batch)  # (B, 4, d)
        head, rows = self.heads[name], torch.from_numpy(batch.rows)
        readouts = []
        for m, modality in enumerate(MODALITIES):
            index = rows[:, m].nonzero().squeeze(1).to(lead.device, non_blocking=True)
            if len(index) and self.own.aux_weight:
                readouts.append(Readout(modality, head(lead[:, 1 + m].index_select(0, index)), index))
        rep = lead[:, 0]
        if self.own.answer == "present":
            token = torch.from_numpy(np.where(batch.rows.sum(axis=1) == 1, 1 + batch.rows.argmax(axis=1), 0))
            chosen = F.one_hot(token, LEAD).to(lead.device, lead.dtype, non_blocking=True)  # (B, 4)
            rep = torch.einsum("bk,bkd->bd", chosen, lead)
        named = {"class_outputs": lead, "rep": rep} if details else {}
        return Output(head(rep), readouts=tuple(readouts), details=named)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        loss = prediction_loss(output.logits, batch.label, batch.task_name)
        if output.readouts:
            loss = loss + self.own.aux_weight * readout_loss(output, batch)
        return loss

    def encode(self, batch: Batch) -> Tensor:
        """Outputs of the four class tokens, (B, 4, d)."""
        contents, packing = self.embedding.packed(batch, with_class=False)
        contents = packing.add(contents, self.modality_embedding)
        sequences = SampleSequences(batch, LEAD, packing)
        leading = torch.cat([self.joint_token, self.embedding.class_tokens]).expand(len(batch), -1, -1)
        fused = [number >= self.own.fusion_layer for number in range(len(self.encoder))]
        layers, outputs = cast(Sequence[EncoderLayer], self.encoder), []
        for tokens, types in zip(
            sequences.split(torch.cat([leading.flatten(0, 1), contents])), sequences.types, strict=True
        ):
            masks = {flag: content_mask(types, fused=flag) for flag in set(fused)}
            for flag, layer in zip(fused[:-1], layers[:-1], strict=True):
                tokens = layer(tokens, masks[flag])  # (b, n, d)
            outputs.append(class_output(layers[-1], tokens, masks[fused[-1]][:, :, :LEAD], slice(0, LEAD)))
        return sequences.packing.scatter(outputs, len(batch))


def content_mask(types: Tensor, *, fused: bool) -> Tensor:
    """Attention mask of sequences of token ``types`` (b, n), (b, 1, n, n) bool; True where a row may read a column.

    Contents read all contents if ``fused``, else those of their modality. Every position reads itself, so that padding
    has no empty row.
    """
    number = LEAD + len(MODALITIES)  # types 0-3 class tokens, 4-6 contents, 7 padding
    table = torch.eye(number + 1, dtype=torch.bool)
    table[0, LEAD:number] = True
    for m in range(len(MODALITIES)):
        table[1 + m, LEAD + m] = True
    if fused:
        table[LEAD:number, LEAD:number] = True
    same = torch.eye(types.shape[1], dtype=torch.bool, device=types.device)
    # The identity in the table lets a class token read itself, as each occurs once. Padding reads padding only.
    return (table.to(types.device)[types.unsqueeze(2), types.unsqueeze(1)] | same).unsqueeze(1)
