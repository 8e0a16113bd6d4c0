"""FlexCare (Xu et al., KDD 2024, arXiv 2406.11928): one model for many tasks over any subset of three modalities.

A transformer reads a task token, seven modality-combination tokens and the contents; a mask lets a combination token
read the contents of its modalities only. A task-aware mixture of experts refines the outputs of the combinations that
are available, an attention of the task token over them gives the patient vector, one linear head per task the logits.

Parameters against the equations (d = width, E = experts):
    embedding.*                     eq 1: W_T, image convolution, W_N, Pos^m; class_tokens are c_T, c_I, c_N
    task_tokens (7 or 1, d)         h_task by task id
    combination_tokens (4, d)       TIN, TI, TN, IN
    encoder.l.*                     eq 2-3, layer l; names in `flexcare_model.models.layers.EncoderLayer`
    experts.router, .task_router, .noise_router (d, E)      eq 10: Wg, Wt, Wn
    experts.expand, .expand_bias, .contract, .contract_bias eq 8: W1, b1, W2, b2; (E, d, d) as x @ W, and (E, d)
    fusion.project (d, 2d), .score (1, d), .norm            eq 11-12: U, v, LN
    heads.<task>                    2d to the task's logits

What differs from the released code: the mask blocks (`attention_mask`; the released one adds 1 to blocked logits), the
encoder layers are initialised separately (`copied_layers`), the drg head has one output per class, position tables have
no unused rows. `FlexCareReleased` (`flexcare_variants.py`) is the model as it was released.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flexcare_data.modalities import COMBINATIONS, LETTERS, MODALITIES
from flexcare_data.tasks import TASKS
from flexcare_model.data.batch import Batch
from flexcare_model.models.base import Model, ModelConfig, Output, full_precision
from flexcare_model.models.layers import EncoderLayer
from flexcare_model.models.losses import decorrelation, expected_load, prediction_loss, squared_variation
from flexcare_model.models.packing import SampleSequences

TASK_ROWS = 7
"""Rows of the task tokens for the tasks of the paper, whichever are trained; a task of a larger id adds rows."""


class Experts(nn.Module):
    """Noisy top-k mixture of experts over (combination, task) pairs, equations (8)-(10)."""

    expand: nn.Parameter
    expand_bias: nn.Parameter
    contract: nn.Parameter
    contract_bias: nn.Parameter

    def __init__(self, width: int, experts: int, k: int, *, with_task: bool = True) -> None:
        super().__init__()
        self.k = k
        self.router = nn.Parameter(torch.zeros(width, experts))
        if with_task:
            self.task_router = nn.Parameter(torch.zeros(width, experts))
        self.noise_router = nn.Parameter(torch.zeros(width, experts))
        bound = 1 / math.sqrt(width)  # as torch draws a linear layer of this width
        for name, shape in (("expand", (width, width)), ("contract", (width, width))):
            setattr(self, name, nn.Parameter(torch.empty(experts, *shape).uniform_(-bound, bound)))
            setattr(self, f"{name}_bias", nn.Parameter(torch.empty(experts, width).uniform_(-bound, bound)))

    def forward(
        self, x: Tensor, task: Tensor | None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Refine ``x`` (V, d) given the task-token outputs ``task`` (V, d), or None without task token.

        ``noise`` (V, E) replaces the draw from N(0, 1) while training.

        Returns:
            The refined rows (V, d), gates (V, E) with k entries above 0, chosen experts (V, k) best first, and the
            unweighted balance loss cv^2(importance) + cv^2(load).
        """
        gates, chosen, balance = self.route(x, task, noise)
        # All experts on all rows: V is a few hundred at most, and selecting rows would wait for the GPU.
        hidden = F.relu(torch.matmul(x, self.expand) + self.expand_bias.unsqueeze(1))  # (E, V, d)
        refined = torch.baddbmm(self.contract_bias.unsqueeze(1), hidden, self.contract)  # (E, V, d)
        return torch.einsum("ve,evd->vd", gates, refined), gates, chosen, balance

    def route(self, x: Tensor, task: Tensor | None, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Gates, chosen experts and balance loss, as in `forward`."""
        clean = x @ self.router
        if task is not None:
            clean = clean + task @ self.task_router  # (V, E)
        noisy, std = clean, None
        if self.training:
            std = F.softplus(x @ self.noise_router) + 0.01
            noisy = clean + (torch.randn_like(clean) if noise is None else noise) * std
        top, chosen = noisy.topk(self.k, dim=-1)  # (V, k)
        gates = torch.zeros_like(noisy).scatter(1, chosen, top.softmax(dim=-1))  # (V, E)
        if std is not None and self.k < noisy.shape[1]:
            load = expected_load(noisy, clean, std, self.k)
        else:
            load = (gates > 0).sum(dim=0).to(gates.dtype)
        return gates, chosen, squared_variation(gates.sum(dim=0)) + squared_variation(load)


class SharedExpert(nn.Module):
    """The ablation of the experts: one expert for all pairs, no routing, no balance loss."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, width)
        self.contract = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(F.relu(self.expand(x)))


class Fusion(nn.Module):
    """Patient-level fusion of the combinations, equations (11)-(12)."""

    def __init__(self, width: int, temperature: float, with_task: bool) -> None:
        super().__init__()
        self.temperature = temperature
        self.project = nn.Linear(2 * width if with_task else width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, refined: Tensor, task: Tensor | None, available: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse ``refined`` (B, K, d) by the task-token output (B, d) to the representation (B, 2d), or (B, d) without.

        Returns it with the weights (B, K), which are exactly 0 where not ``available`` (B, K).
        """
        pairs = refined
        if task is not None:
            pairs = torch.cat([task.unsqueeze(1).expand_as(refined), refined], dim=-1)  # (B, K, 2d)
        score = self.score(torch.tanh(self.project(pairs))).squeeze(-1)  # (B, K)
        weights = (score.masked_fill(~available, -math.inf) / self.temperature).softmax(dim=-1)
        patient = self.norm(torch.einsum("bk,bkd->bd", weights, refined))
        return (patient if task is None else torch.cat([task, patient], dim=-1)), weights


class FlexCare(Model):
    """FlexCare; its variants change the class attributes.

    Details: task_repr (B, d) and combo_repr (B, K, d), encoder outputs; available (B, K) bool; gates (B, K, E) and
    expert_index (B, K, k), 0 and -1 where not available; expert_output (B, K, d); fusion_weights (B, K);
    decorrelation (B,); rep (B, 2d). K = 7 combinations in the order of `COMBINATIONS`.
    Extra losses: decorrelation is L_cov, without its weight; balance is L_moe, with it.

    Attributes:
        combinations: names of the combination tokens.
        decorrelated: whether L_cov enters the loss.
        mixed: mixture of experts, or one shared expert.
        task_token: replaces the setting of this name if not None.
    """

    name = "flexcare"
    title = "FlexCare"
    role = "reference"
    marks = (True, True, True)
    colour = "#000000"
    marker = "X"
    colour_alone = "#CC79A7"
    marker_alone = "P"
    multi_task = True
    settings = {
        "attention_mask": {}, "covariance_normaliser": {}, "decorr_weight": {}, "decorr_present_only": {},
        "moe_weight": {}, "experts": {}, "experts_per_token": {}, "temperature": {}, "task_token": {},
        "note_dropout": {},
        "copied_layers": {
            "default": False,
            "meaning": "true: all encoder layers start from the same weights, as in the released code",
        },
    }  # fmt: skip
    combinations: ClassVar[tuple[str, ...]] = COMBINATIONS
    decorrelated: ClassVar[bool] = True
    mixed: ClassVar[bool] = True
    task_token: ClassVar[str | None] = None
    experts: Experts | SharedExpert
    reads: Tensor

    def __init__(self, config: ModelConfig, task_outputs: dict[str, int]) -> None:
        super().__init__(config, task_outputs, class_std=0.0)
        width, mode = config.hidden_dim, self.task_token or config.task_token
        self.with_task = mode != "none"
        if self.with_task:
            rows = max(TASK_ROWS, 1 + max(TASKS[name].id for name in task_outputs)) if mode == "own" else 1
            self.task_tokens = nn.Parameter(torch.randn(rows, width))
        dedicated = sum(len(name) > 1 for name in self.combinations)
        if dedicated:
            self.combination_tokens = nn.Parameter(torch.zeros(dedicated, width))
        self.encoder = nn.ModuleList(EncoderLayer(width, config.heads, config.dropout) for _ in range(config.layers))
        if self.own.copied_layers:
            for layer in self.encoder[1:]:
                layer.load_state_dict(self.encoder[0].state_dict())
        if self.mixed:
            self.experts = Experts(width, config.experts, config.experts_per_token, with_task=self.with_task)
        else:
            self.experts = SharedExpert(width)
        self.fusion = Fusion(width, config.temperature, self.with_task)
        self.heads = self.linear_heads(2 * width if self.with_task else width)
        member = torch.tensor([[letter in name for letter in LETTERS] for name in self.combinations])
        reads = torch.cat([torch.ones(int(self.with_task), 3, dtype=torch.bool), member])
        self.member = member  # (K, 3), stays on the CPU: modalities of a combination
        self.register_buffer("reads", reads, persistent=False)  # (S, 3): contents that a summary token reads

    def forward(self, batch: Batch, *, details: bool = False) -> Output:
        name = self.check_task(batch)
        summary = self.encode(batch)  # (B, S, d)
        with full_precision(batch.device):
            summary = summary.to(self.fusion.score.weight.dtype)
            task = summary[:, 0] if self.with_task else None  # (B, d)
            combos = summary[:, int(self.with_task) :]  # (B, K, d)
            on_cpu = self.available(batch)
            available = on_cpu.to(batch.device, non_blocking=True)  # (B, K)
            refined, routing, balance = self.refine(combos, task, on_cpu)
            rep, weights = self.fusion(refined, task, available)
            logits = self.heads[name](rep)
            covariance = decorrelation(
                combos, self.config.covariance_normaliser, available if self.config.decorr_present_only else None
            )
        losses = {"decorrelation": covariance.mean()} | balance
        if not details:
            return Output(logits, losses)
        named = {"combo_repr": combos, "available": available, **routing, "expert_output": refined}
        named |= {"fusion_weights": weights, "decorrelation": covariance, "rep": rep}
        return Output(logits, losses, details=named if task is None else {"task_repr": task, **named})

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Equation (13). The task's weight multiplies everything, where several tasks are trained together."""
        total = prediction_loss(output.logits, batch.label, batch.task_name)
        if self.decorrelated:
            total = total + self.config.decorr_weight * output.extra_losses["decorrelation"]
        if self.mixed:
            total = total + output.extra_losses["balance"]
        return total * (TASKS[batch.task_name].loss_weight if len(self.task_outputs) > 1 else 1.0)

    def available(self, batch: Batch) -> Tensor:
        """(B, K) True where all modalities of a combination are present; on the CPU, without waiting for the GPU."""
        return (torch.from_numpy(batch.rows).unsqueeze(1) | ~self.member).all(dim=-1)

    def refine(
        self, combos: Tensor, task: Tensor | None, available: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The expert layer on the ``available`` pairs (B, K), given on the CPU.

        Returns outputs (B, K, d), zero elsewhere; the routing for details; the balance loss.
        """
        size, number = combos.shape[:2]
        pairs = available.flatten().nonzero().squeeze(1).to(combos.device, non_blocking=True)
        x = combos.flatten(0, 1).index_select(0, pairs)  # (V, d)
        routing, balance = {}, {}
        if self.mixed:
            query = None if task is None else task.index_select(0, pairs // number)  # (V, d)
            x, gates, chosen, variation = self.experts(x, query)
            scattered = gates.new_zeros(size * number, gates.shape[1]).index_copy(0, pairs, gates)
            index = chosen.new_full((size * number, chosen.shape[1]), -1).index_copy(0, pairs, chosen)
            routing = {"gates": scattered.unflatten(0, (size, -1)), "expert_index": index.unflatten(0, (size, -1))}
            balance = {"balance": self.config.moe_weight * variation}
        else:
            x = self.experts(x)
        refined = x.new_zeros(size * number, x.shape[1]).index_copy(0, pairs, x)
        return refined.unflatten(0, (size, -1)), routing, balance

    # -- the encoder: tokens, then the block form or the dense form -----------------------------------------------

    def encode(self, batch: Batch) -> Tensor:
        """Encoder outputs of the summary tokens, (B, S, d): the task token (if any), then the combinations."""
        if self.config.attention_mask == "released" or self.config.encoder == "dense":
            return self.encode_dense(batch)
        return self.encode_blocks(batch)

    def summary_tokens(self, batch: Batch) -> Tensor:
        """Initial vectors of the summary tokens, (B, S, d)."""
        parts: list[Tensor] = [self.embedding.class_tokens]
        if len(self.combinations) > len(MODALITIES):
            parts = [self.combination_tokens, *parts]
        if self.with_task:
            row = batch.task if len(self.task_tokens) > 1 else 0
            parts = [self.task_tokens[row : row + 1], *parts]
        return torch.cat(parts).expand(len(batch), -1, -1)

    def encode_blocks(self, batch: Batch) -> Tensor:
        """The strict mask without its empty parts: contents attend within their modality, packed; the summary tokens
        read what the mask allows. The last layer computes the outputs of the summary tokens only."""
        contents, packing = self.embedding.packed(batch, with_class=False)  # (n, d)
        summary = self.summary_tokens(batch)  # (B, S, d)
        size, number, width = summary.shape
        sequences = SampleSequences(batch, number, packing)
        masks = self.summary_masks(sequences, batch.present)
        flat = torch.cat([summary.flatten(0, 1), contents])  # (B * S + n, d)
        layers = cast(Sequence[EncoderLayer], self.encoder)
        for layer in layers[:-1]:
            query, key_value = layer.project(flat).split([width, 2 * width], dim=-1)
            query, content_query = query.split([size * number, packing.size])
            read = self._read(layer, query.unflatten(0, (size, number)), sequences.split(key_value), sequences, masks)
            own = zip(packing.split(content_query), packing.split(key_value[size * number :]), strict=True)
            attended = [
                layer.attend(*layer.split_heads(one), *layer.split_heads(two), mask=group.key_mask).flatten(0, 1)
                for group, (one, two) in zip(packing.groups, own, strict=True)
            ]
            flat = layer.finish(flat, torch.cat([read.flatten(0, 1), *attended]))
        last = layers[-1]
        summary = flat[: size * number].unflatten(0, (size, number))
        key_value = sequences.split(last.project(flat, "kv"))
        return last.finish(summary, self._read(last, last.project(summary, "q"), key_value, sequences, masks))

    @staticmethod
    def _read(
        layer: EncoderLayer, query: Tensor, key_value: list[Tensor], sequences: SampleSequences, masks: list[Tensor]
    ) -> Tensor:
        """Attention output of the summary tokens, (B, S, d), for their queries (B, S, d) over all keys and values."""
        read = []
        for group, part, mask in zip(sequences.packing.groups, key_value, masks, strict=True):
            (own,) = layer.split_heads(query.index_select(0, group.rows))
            read.append(layer.attend(own, *layer.split_heads(part), mask=mask))
        return sequences.packing.scatter(read, len(query))

    def summary_masks(self, sequences: SampleSequences, present: Tensor) -> list[Tensor]:
        """Attention mask of the summary tokens, (b, 1, S, width) per group of sequences; True where one may read."""
        number, single = len(self.reads), len(MODALITIES)
        table = torch.zeros(number, number + single + 1, dtype=torch.bool, device=present.device)
        table[:, :number].fill_diagonal_(True)
        table[:, number:-1] = self.reads
        if self.with_task:
            table[0, :number] = True
        masks = []
        for group, types in zip(sequences.packing.groups, sequences.types, strict=True):
            mask = table[:, types].transpose(0, 1)  # (b, S, width)
            if self.with_task:  # the task token reads the class tokens of present modalities only
                mask[:, 0, number - single : number] = present.index_select(0, group.rows)
            masks.append(mask.unsqueeze(1))
        return masks

    def encode_dense(self, batch: Batch) -> Tensor:
        """As the block form, over one padded sequence per sample with the full L x L mask of equation (4)."""
        summary = self.summary_tokens(batch)
        parts, visible, owner = [summary], [], []
        lengths = (batch.visible - 1).clamp(min=0)  # (B, 3), on the CPU
        for m in range(len(MODALITIES)):
            width = int(lengths[:, m].max())
            if width == 0:
                continue
            mask = torch.arange(width, device=batch.device) < lengths[:, m : m + 1].to(batch.device)  # (B, width)
            parts.append(self.embedding.contents(batch, m, width, mask=mask))
            visible.append(mask)
            owner += [m] * width
        z = torch.cat([part.to(parts[-1].dtype) for part in parts], dim=1)  # (B, L, d)
        mask = self.dense_mask(batch.present, visible, torch.tensor(owner, dtype=torch.int64, device=z.device))
        for layer in cast(Sequence[EncoderLayer], self.encoder):
            z = layer.dense(z, mask.unsqueeze(1))
        return z[:, : summary.shape[1]]

    def dense_mask(self, present: Tensor, visible: list[Tensor], owner: Tensor) -> Tensor:
        """Equation (4) for the sequence of summary tokens and contents, (B, L, L).

        strict: bool, True where row i reads column j. released: float, 0 where it may, +1 where the paper blocks, and
        -inf for padding and class tokens of absent modalities.
        """
        number, size = len(self.reads), len(present)
        length = number + len(owner)
        table = torch.zeros(length, length, dtype=torch.bool, device=present.device)
        table[:number, number:] = self.reads[:, owner]
        table[number:, number:] = owner.unsqueeze(1) == owner
        if self.with_task:
            table[0, :number] = True
        own = torch.eye(length, dtype=torch.bool, device=present.device)
        table |= own
        keys = torch.ones(size, length, dtype=torch.bool, device=present.device)
        keys[:, number - len(MODALITIES) : number] = present
        if visible:
            keys[:, number:] = torch.cat(visible, dim=1)
        if self.config.attention_mask == "strict":
            return (table & keys.unsqueeze(1)) | own  # every position reads itself, so no row is empty
        added = (~table).to(self.fusion.score.weight.dtype).expand(size, -1, -1)
        return added.masked_fill(~keys.unsqueeze(1), -math.inf)
