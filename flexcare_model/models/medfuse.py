"""MedFuse (Hayat et al., MLHC 2022): an LSTM reads the vectors of the modalities that are present.

    u_m = Uni_m;  sequence = [P_m u_m : m in (T, I, N), present];  h = last state of LSTM(sequence)
    logits = W Drop(h) + b

With ``order: task_first`` the sequence begins with the modality that every sample of the task has, where it is not the
series: I for diagnosis, N for drg. With ``dropout_at: series`` the dropout is on u_T instead of h.

Parameters: encoders.* (Uni_m), project.<modality> (P_m), lstm, heads.<task>.
What differs from the original: the common embedding and transformers replace its pre-trained LSTM and ResNet-34, the
usual order of modalities is fixed (there: the task's own first), the usual dropout is on the state (there: on the
series vector), every modality is projected (there: the second one), the LSTM is d wide (there 512).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from flexcare_data.modalities import MODALITIES
from flexcare_data.tasks import TASKS
from flexcare_model.data.batch import Batch
from flexcare_model.models.base import Model, ModelConfig, Output
from flexcare_model.models.layers import UnimodalEncoders

DROPOUT = 0.3
OF_DATA_SET = {"mimic_cxr_jpg": "image", "mimic_iv_note": "note"}
"""Modality that every sample has, by the data set without which a task has no samples (`Task.data_sets`)."""


class MedFuse(Model):
    """Details: unimodal (B, 3, d), zero where absent; rep (B, d), the last LSTM state."""

    name = "medfuse"
    title = "MedFuse"
    table_order = 1
    colour = "#0072B2"
    marker = "o"
    settings = {
        "order": {
            "default": "fixed", "choices": ("fixed", "task_first"),
            "meaning": "order of the modalities in the sequence: series, image, note; or as in the original the "
            "task's own modality first",
        },
        "dropout_at": {
            "default": "state", "choices": ("state", "series"),
            "meaning": "where the dropout of 0.3 is: on the fused state, or as in the original on the series vector",
        },
    }  # fmt: skip

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
        own = list(unimodal.unbind(dim=1))
        if self.own.dropout_at == "series":
            own[0] = F.dropout(own[0], DROPOUT, self.training)
        steps = torch.stack([self.project[m](own[i]) for i, m in enumerate(MODALITIES)], dim=1)  # (B, 3, d)
        wanted = self.order(name)
        # Present ones first, in the wanted order.
        order = torch.from_numpy(wanted[np.argsort(~batch.rows[:, wanted], axis=1, kind="stable")])
        steps = steps.gather(1, order.to(steps.device, non_blocking=True).unsqueeze(-1).expand_as(steps))
        lengths = torch.from_numpy(batch.rows.sum(axis=1))
        packed = pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
        _, (state, _) = self.lstm(packed)
        rep = state[-1]  # (B, d)
        on_state = self.own.dropout_at == "state"
        logits = self.heads[name](F.dropout(rep, DROPOUT, self.training) if on_state else rep)
        return Output(logits, details={"unimodal": unimodal, "rep": rep} if details else {})

    def order(self, task: str) -> np.ndarray:
        """Numbers of the modalities in the order in which the LSTM reads them."""
        numbers = list(range(len(MODALITIES)))
        if self.own.order == "task_first":
            needed = [MODALITIES.index(OF_DATA_SET[root]) for root in TASKS[task].data_sets if root in OF_DATA_SET]
            numbers = list(dict.fromkeys([*needed, *numbers]))
        return np.array(numbers)
