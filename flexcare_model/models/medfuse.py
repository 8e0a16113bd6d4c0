"""MedFuse (Hayat et al., MLHC 2022): an LSTM reads the vectors of the modalities that are present.

    u_m = Uni_m;  sequence = [P_m u_m : m in (T, I, N), present];  h = last state of LSTM(sequence)
    logits = W Drop(h) + b

Parameters: encoders.* (Uni_m), project.<modality> (P_m), lstm, heads.<task>.
What differs from the original: the common embedding and transformers replace its pre-trained LSTM and ResNet-34, the
order of modalities is fixed (there: the task's own first), the LSTM is d wide (there 512).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from flexcare_data.modalities import MODALITIES
from flexcare_model.data.batch import Batch
from flexcare_model.models.base import Model, ModelConfig, Output
from flexcare_model.models.layers import UnimodalEncoders

HEAD_DROPOUT = 0.3


class MedFuse(Model):
    """Details: unimodal (B, 3, d), zero where absent; rep (B, d), the last LSTM state."""

    name = "medfuse"
    title = "MedFuse"
    table_order = 1
    colour = "#0072B2"
    marker = "o"

    def __init__(self, config: ModelConfig, task_outputs: dict[str, int]) -> None:
        super().__init__(config, task_outputs)
        width = config.hidden_dim
        self.encoders = UnimodalEncoders(width, config.layers, config.heads, config.dropout)
        self.project = nn.ModuleDict({name: nn.Linear(width, width) for name in MODALITIES})
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.heads = self.linear_heads(width)

    def forward(self, batch: Batch, *, details: bool = False) -> Output:
        name = self.check_task(batch)
        unimodal = self.encoders(batch, self.embedding)  # (B, 3, d)
        steps = torch.stack([self.project[m](unimodal[:, i]) for i, m in enumerate(MODALITIES)], dim=1)  # (B, 3, d)
        order = torch.from_numpy(np.argsort(~batch.rows, axis=1, kind="stable"))  # present ones first, in order T, I, N
        steps = steps.gather(1, order.to(steps.device, non_blocking=True).unsqueeze(-1).expand_as(steps))
        lengths = torch.from_numpy(batch.rows.sum(axis=1))
        packed = pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
        _, (state, _) = self.lstm(packed)
        rep = state[-1]  # (B, d)
        logits = self.heads[name](F.dropout(rep, HEAD_DROPOUT, self.training))
        return Output(logits, details={"unimodal": unimodal, "rep": rep} if details else {})
