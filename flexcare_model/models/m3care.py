"""M3Care (Zhang et al., KDD 2022): missing modalities are completed from similar samples of the batch.

    u_m = Uni_m;  R_m = (1 - sg(e_m)) G(BN(F_m(u_m))) + sg(e_m) G(BN(u_m)), mean over the modalities both samples have
    A = relu(R - t) + t where above 0, t = sg(theta);  A_m = A without the columns lacking m
    g = selu(A_m (selu(A_m (u_m W1) + b1) W2) + b2)
    v_m = w g + (1 - w) u_m if present, else g;  w = sg(p.g) / (sg(p.g) + sg(r.u_m))
    transformer over [v_m + e_m, contents of m + e_m : m];  rep = outputs of the three v_m;  MLP head
    extra loss: ``beta`` * sum over m of | ||F_m(u_m)||_F - ||u_m||_F |

sg is the sigmoid, G the mean of three Gaussian kernels. Rows and bandwidth of a modality come from the samples that
have it. ``row_mask`` also removes the rows lacking m from A_m, as the released notebooks do: such samples then
get a learned constant instead of their neighbours.

Predictions depend on the batch: evaluate in a fixed order. Layers are split in halves, unimodal and joint.
Parameters: encoders.* (Uni_m); completion.<modality>.{mapping (F_m), first, first_bias, second, second_bias (W1, b1,
W2, b2), from_graph (p), from_own (r), mix (e_m of the similarity)}; batch_norm (one for all); threshold (theta);
modality_embedding (3, d) (e_m of the tokens); joint.l.*; merge; heads.<task>.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flexcare_data.modalities import MODALITIES
from flexcare_model.data.batch import Batch
from flexcare_model.models.base import Model, ModelConfig, Output, full_precision
from flexcare_model.models.layers import EncoderLayer, UnimodalEncoders, class_output, normal_parameter
from flexcare_model.models.losses import prediction_loss
from flexcare_model.models.packing import SampleSequences

HEAD_DROPOUT = 0.5
BANDWIDTHS = (0.5, 1.0, 2.0)
LEAD = len(MODALITIES)


class Completion(nn.Module):
    """The parameters of one modality for similarity and completion."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mapping = nn.Sequential(
            nn.Linear(width, width), nn.SELU(), nn.Linear(width, width), nn.SELU(), nn.Linear(width, width)
        )
        self.first = nn.Linear(width, width, bias=False)
        self.first_bias = nn.Parameter(torch.zeros(width))
        self.second = nn.Linear(width, width, bias=False)
        self.second_bias = nn.Parameter(torch.zeros(width))
        self.from_graph = nn.Linear(width, 1, bias=False)
        self.from_own = nn.Linear(width, 1, bias=False)
        self.mix = nn.Parameter(torch.tensor(-0.3))

    def complete(self, adjacency: Tensor, own: Tensor) -> Tensor:
        """Vectors from the neighbours, (B, d), of ``own`` (B, d); two graph convolutions without normalisation."""
        hidden = F.selu(adjacency @ self.first(own) + self.first_bias)
        return F.selu(adjacency @ self.second(hidden) + self.second_bias)

    def gate(self, completed: Tensor, own: Tensor) -> Tensor:
        """Share of the completed vector where the modality is present, (B, 1)."""
        graph, itself = self.from_graph(completed).sigmoid(), self.from_own(own).sigmoid()
        return graph / (graph + itself)


class M3Care(Model):
    """Details: unimodal, completed (g) and summary (v_m), each (B, 3, d); similarity, adjacency (B, B); rep (B, 3d).

    Extra losses: mapping, that of F_m, without beta.
    """

    name = "m3care"
    title = "M3Care"
    table_order = 3
    colour = "#009E73"
    marker = "^"
    gradient_clip = 20.0
    settings = {
        "beta": {
            "default": 1e-7, "least": 0.0,
            "meaning": "weight of the loss on the mapped vectors; the original has 1e-7 or 1e-8, by data set",
        },
        "row_mask": {
            "default": False,
            "meaning": "true: samples without a modality have no neighbours for it, as in the released notebooks",
        },
    }  # fmt: skip

    def __init__(self, config: ModelConfig, task_outputs: dict[str, int]) -> None:
        super().__init__(config, task_outputs)
        width = config.hidden_dim
        joint = max(1, config.layers // 2)
        self.encoders = UnimodalEncoders(width, max(1, config.layers - joint), config.heads, config.dropout)
        self.completion = nn.ModuleDict({name: Completion(width) for name in MODALITIES})
        self.batch_norm = nn.BatchNorm1d(width)
        self.threshold = nn.Parameter(torch.zeros(()))
        self.modality_embedding = normal_parameter(LEAD, width)
        self.joint = nn.ModuleList(EncoderLayer(width, config.heads, config.dropout) for _ in range(joint))
        self.merge = nn.Linear(LEAD * width, 2 * width)
        self.heads = self.linear_heads(2 * width)

    def forward(self, batch: Batch, *, details: bool = False) -> Output:
        name = self.check_task(batch)
        unimodal, contents, packing = self.encoders.sequences(batch, self.embedding)
        with full_precision(batch.device):
            unimodal = unimodal.to(self.threshold.dtype)
            similarity, mapping_loss = self.similarity(unimodal, batch)
            adjacency = self.adjacency(similarity)
            completed, summary = self.complete(adjacency, unimodal, batch.present)  # (B, 3, d) each
        contents = packing.add(contents, self.modality_embedding)
        sequences = SampleSequences(batch, LEAD, packing, skip=1)
        layers, outputs = cast(Sequence[EncoderLayer], self.joint), []
        leading = (summary + self.modality_embedding).flatten(0, 1)
        parts = sequences.split(torch.cat([leading, contents.to(leading.dtype)]))
        for tokens, group in zip(parts, sequences.packing.groups, strict=True):
            for layer in layers[:-1]:
                tokens = layer(tokens, group.key_mask)
            outputs.append(class_output(layers[-1], tokens, group.key_mask, slice(0, LEAD)))
        rep = sequences.packing.scatter(outputs, len(batch)).flatten(1)  # (B, 3d)
        hidden = F.dropout(F.relu(self.merge(rep)), HEAD_DROPOUT, self.training)
        named = {}
        if details:
            named = {"unimodal": unimodal, "completed": completed, "summary": summary, "rep": rep}
            named |= {"similarity": similarity, "adjacency": adjacency}
        return Output(self.heads[name](hidden), {"mapping": mapping_loss}, details=named)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        loss = prediction_loss(output.logits, batch.label, batch.task_name)
        return loss + self.own.beta * output.extra_losses["mapping"]

    def similarity(self, unimodal: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Similarity of the samples (B, B), 0 to 1, over the modalities that both have; and the loss on F_m."""
        size = len(batch)
        total, loss = unimodal.new_zeros(size, size), unimodal.new_zeros(())
        for m, name in enumerate(MODALITIES):
            rows = torch.from_numpy(batch.rows[:, m]).nonzero().squeeze(1).to(unimodal.device, non_blocking=True)
            if not len(rows):
                continue
            part = cast(Completion, self.completion[name])
            own = unimodal[:, m].index_select(0, rows)  # (n, d)
            mapped = part.mapping(own)
            mix = part.mix.sigmoid()
            similar = (1 - mix) * gaussian(self._normalise(mapped)) + mix * gaussian(self._normalise(own))  # (n, n)
            total = total + unimodal.new_zeros(size, size).index_put((rows.unsqueeze(1), rows), similar)
            loss = loss + (mapped.norm() - own.norm()).abs()
        present = batch.present.to(total.dtype)
        return (total / (present @ present.T).clamp(min=1)).clamp(max=1.0), loss

    def _normalise(self, vectors: Tensor) -> Tensor:
        """The shared batch norm; one row has no variance and takes the running statistics."""
        if self.training and len(vectors) > 1:
            return self.batch_norm(vectors)
        norm = self.batch_norm
        return F.batch_norm(vectors, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    def adjacency(self, similarity: Tensor) -> Tensor:
        """Similarities above the learned threshold, 0 below it, (B, B)."""
        threshold = self.threshold.sigmoid()
        kept = F.relu(similarity - threshold)
        return kept + (kept > 0) * threshold.detach()

    def complete(self, adjacency: Tensor, unimodal: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """The completed vector (g) and the summary vector (v_m), for each modality, (B, 3, d) each."""
        completed, summary = [], []
        for m, name in enumerate(MODALITIES):
            part, own, has = cast(Completion, self.completion[name]), unimodal[:, m], present[:, m]
            edges = adjacency * has
            if self.own.row_mask:
                edges = edges * has.unsqueeze(1)
            graph = part.complete(edges, own)  # (B, d)
            share = part.gate(graph, own)
            completed.append(graph)
            summary.append(torch.where(has.unsqueeze(1), share * graph + (1 - share) * own, graph))
        return torch.stack(completed, dim=1), torch.stack(summary, dim=1)


def gaussian(x: Tensor) -> Tensor:
    """Mean of Gaussian kernels of three bandwidths between the rows of ``x`` (n, d), (n, n).

    The bandwidth is the mean squared distance of different rows (no gradient); 1 if that is nearly 0.
    """
    distance = (x.unsqueeze(1) - x.unsqueeze(0)).square().sum(dim=-1)  # (n, n)
    number = len(x)
    width = distance.detach().sum() / max(1, number * number - number)
    width = torch.where(width < 1e-3, torch.ones_like(width), width)
    return torch.stack([torch.exp(-distance / (scale * width)) for scale in BANDWIDTHS]).mean(dim=0)
