"""MultiModN (Swamy et al., NeurIPS 2023): a state updated by one modality after the other, read by one decoder.

    s = s_0;  for m in (T, I, N): s = MLP_m([Uni_m ; s]) where the sample has m, else s unchanged;  prediction = D(s)
    loss = mean of L(D(s)) over the steps of the batch, the initial state included + 0.01 * rho * mean squared change

L at a step is taken over the samples that have its modality, at the initial state over all. ``rho`` is 0 in the
original's MIMIC setting. ``shuffle_order`` draws the order of the modalities for each training batch. D has one hidden
layer of width d, or with ``decoder: two_of_32`` two of width 32, as in the original.

`MultiModNTogether` is its multi-task form: one state, and a decoder for each task. The original decodes several labels
of one sample. Here a sample has the label of one task, and so a step of training has one decoder.

Parameters: initial_state (s_0), encoders.* (Uni_m), modules_in.<modality>.* (MLP_m), and D: decoder_in and
heads.<task>, or heads.<task>.* alone.
What differs from the original: a modality is skipped per sample, not for a whole batch; state of width d (there 50);
the common prediction loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flexcare_data.modalities import MODALITIES
from flexcare_model.data.batch import Batch
from flexcare_model.models.base import Model, ModelConfig, Output, Readout, readout_loss
from flexcare_model.models.layers import UnimodalEncoders, normal_parameter

MODULE_DROPOUT = 0.2
CHANGE_WEIGHT = 0.01
DECODER_WIDTH = 32
"""Of both hidden layers of the original's decoder."""


class MultiModN(Model):
    """Details: unimodal (B, 3, d); states (B, 4, d), initial and after each step; order (3,) of modalities; rep (B, d).

    Extra losses: state_change, the mean squared change of the state, without its weights.
    """

    name = "multimodn"
    title = "MultiModN"
    table_order = 5
    colour = "#56B4E9"
    marker = "v"
    settings = {
        "decoder": {
            "default": "one_layer", "choices": ("one_layer", "two_of_32"),
            "meaning": "hidden layers of a decoder: one of the width of the model, or as in the original two of 32",
        },
        "rho": {"default": 0.0, "least": 0.0, "meaning": "weight of the change of the state, before its factor 0.01"},
        "shuffle_order": {"default": False, "meaning": "true: each training batch has its order of the modalities"},
    }  # fmt: skip

    def __init__(self, config: ModelConfig, task_outputs: dict[str, int]) -> None:
        super().__init__(config, task_outputs)
        width = config.hidden_dim
        self.encoders = UnimodalEncoders(width, config.layers, config.heads, config.dropout)
        self.initial_state = normal_parameter(width, std=1.0)
        self.modules_in = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Dropout(MODULE_DROPOUT),
                    nn.Linear(2 * width, width),
                    nn.ReLU(),
                    nn.Linear(width, width),
                    nn.ReLU(),
                    nn.Linear(width, width),
                    nn.ReLU(),
                )
                for name in MODALITIES
            }
        )
        if self.own.decoder == "one_layer":
            self.decoder_in = nn.Linear(width, width)
            self.heads = self.linear_heads(width)
        else:
            self.heads = nn.ModuleDict(
                {
                    name: nn.Sequential(
                        nn.Linear(width, DECODER_WIDTH),
                        nn.ReLU(),
                        nn.Linear(DECODER_WIDTH, DECODER_WIDTH),
                        nn.ReLU(),
                        nn.Linear(DECODER_WIDTH, outputs),
                    )
                    for name, outputs in task_outputs.items()
                }
            )

    def forward(self, batch: Batch, *, details: bool = False) -> Output:
        name = self.check_task(batch)
        unimodal = self.encoders(batch, self.embedding)  # (B, 3, d)
        state = self.initial_state.expand(len(batch), -1).to(unimodal.dtype)  # (B, d)
        all_rows = torch.arange(len(batch), device=state.device)
        states, changes = [state], []
        readouts = [Readout("initial", self.decode(state, name), all_rows)]
        order = self.order()
        for m in order:
            proposed = self.modules_in[MODALITIES[m]](torch.cat([unimodal[:, m], state], dim=-1)).to(state.dtype)
            updated = torch.where(batch.present[:, m : m + 1], proposed, state)
            rows = torch.from_numpy(batch.rows[:, m]).nonzero().squeeze(1).to(state.device, non_blocking=True)
            if len(rows):
                readouts.append(Readout(MODALITIES[m], self.decode(updated.index_select(0, rows), name), rows))
                changes.append((updated - state).index_select(0, rows).square().mean())
            state = updated
            states.append(state)
        losses = {"state_change": torch.stack(changes).mean()}
        named = {}
        if details:
            named = {"unimodal": unimodal, "states": torch.stack(states, dim=1), "rep": state}
            named["order"] = torch.tensor(order)
        return Output(self.decode(state, name), losses, tuple(readouts), named)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        change = CHANGE_WEIGHT * self.own.rho * output.extra_losses["state_change"]
        return readout_loss(output, batch) + change

    def decode(self, state: Tensor, task: str) -> Tensor:
        """Logits (B, C) of a state (B, d)."""
        if self.own.decoder == "one_layer":
            state = F.relu(self.decoder_in(state))
        return self.heads[task](state)

    def order(self) -> list[int]:
        """Order of the modalities for this batch; drawn on the CPU for every device."""
        if self.training and self.own.shuffle_order:
            return torch.randperm(len(MODALITIES)).tolist()
        return list(range(len(MODALITIES)))


class MultiModNTogether(MultiModN):
    """MultiModN trained on all tasks together, with a decoder for each."""

    name = "multimodn_together"
    title = "MultiModN, all tasks together"
    role = "variant"
    table_order = 1
    multi_task = True
    settings = {"decoder": {"default": "two_of_32"}}
