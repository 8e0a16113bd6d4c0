"""M3Care (Zhang et al., KDD 2022): missing modalities are completed from similar samples.

    u_m = Uni_m;  R_m = (1 - sg(e_m)) G(BN(F_m(u_m))) + sg(e_m) G(BN(u_m)), mean over the modalities both samples have
    A = relu(R - t) + t where above 0, t = sg(theta);  A_m = A without the columns lacking m
    g = selu(A_m (selu(A_m (u_m W1) + b1) W2) + b2)
    v_m = w g + (1 - w) u_m if present, else g;  w = sg(p.g) / (sg(p.g) + sg(r.u_m))
    transformer over [v_m + e_m, contents of m + e_m : m];  rep = outputs of the three v_m;  MLP head
    extra loss: ``beta`` * sum over m of | ||F_m(u_m)||_F - ||u_m||_F |

sg is the sigmoid, G the mean of three Gaussian kernels. Rows and bandwidth of a modality come from the samples that
have it. ``row_mask`` also removes the rows lacking m from A_m, as the released notebooks do: such samples then
get a learned constant instead of their neighbours.

In training, and where ``uses_bank`` is False, these are the other samples of the batch, as in the original: an answer
then depends on the batch. In evaluation they are a fixed bank of training samples (ours), and an answer depends on
nothing but its sample and the weights, up to rounding:

- The graph of a sample holds itself and the bank. The samples of the bank are compared with each other only, so what
  they pass on is computed once (`M3Care.fill_bank`) and stored with the weights.
- The sums are not normalised, so they grow with the number of neighbours. The edges to the n samples of the bank are
  multiplied by (batch size of training - 1) / n: the expected sum over the other samples of a random training batch.
- The bandwidths are those of the bank.

Layers are split in halves, unimodal and joint. Parameters: encoders.* (Uni_m); completion.<modality>.{mapping (F_m),
first, first_bias, second, second_bias (W1, b1, W2, b2), from_graph (p), from_own (r), mix (e_m of the similarity)};
batch_norm (one for all); threshold (theta); modality_embedding (3, d) (e_m of the tokens); joint.l.*; merge;
heads.<task>. Buffers: bank.*.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        return F.selu(adjacency @ self.second(self.hidden(adjacency, own)) + self.second_bias)

    def hidden(self, adjacency: Tensor, own: Tensor) -> Tensor:
        """Vectors after the first graph convolution, (B, d)."""
        return F.selu(adjacency @ self.first(own) + self.first_bias)

    def complete_from(self, edges: Tensor, loop: Tensor, first: Tensor, second: Tensor, own: Tensor) -> Tensor:
        """Vectors from n fixed neighbours, (B, d), of ``own`` (B, d).

        Args:
            edges: (B, n) to the neighbours.
            loop: (B, 1) of each sample to itself.
            first, second: (n, d), what the neighbours pass on in the two graph convolutions.
        """
        hidden = F.selu(loop * self.first(own) + edges @ first + self.first_bias)
        return F.selu(loop * self.second(hidden) + edges @ second + self.second_bias)

    def gate(self, completed: Tensor, own: Tensor) -> Tensor:
        """Share of the completed vector where the modality is present, (B, 1)."""
        graph, itself = self.from_graph(completed).sigmoid(), self.from_own(own).sigmoid()
        return graph / (graph + itself)


class Bank(nn.Module):
    """Training samples as neighbours: buffers with N rows. A row that is not filled has no modality, so no edge.

    Attributes:
        present: (N, 3) bool.
        own, mapped: (N, 3, d), normalised vectors u_m and F_m(u_m), which samples are compared with.
        first, second: (N, 3, d), what the rows pass on in the two graph convolutions.
        bandwidth: (2, 3), of mapped and of own.
        share: (), factor of the edges from another sample to the bank.
        filled: number of filled rows.
    """

    present: Tensor
    own: Tensor
    mapped: Tensor
    first: Tensor
    second: Tensor
    bandwidth: Tensor
    share: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("present", torch.zeros(rows, LEAD, dtype=torch.bool))
        for name in ("own", "mapped", "first", "second"):
            self.register_buffer(name, torch.zeros(rows, LEAD, width))
        self.register_buffer("bandwidth", torch.ones(2, LEAD))
        self.register_buffer("share", torch.ones(()))
        self.filled = 0
        # Counted here and not in the forward pass, which would wait for the GPU.
        self.register_load_state_dict_post_hook(lambda bank, _: bank.count())

    def count(self) -> None:
        self.filled = int(self.present.any(dim=1).sum())


class M3Care(Model):
    """Details: unimodal, completed (g) and summary (v_m), each (B, 3, d); similarity and adjacency (B, B), or (B, N)
    with the bank; rep (B, 3d).

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
        "evaluation": {
            "default": "bank", "choices": ("bank", "permutations"),
            "meaning": "neighbours of a sample in the evaluation. bank: fixed training samples, so that a prediction "
            "depends on its sample only. permutations: the other samples of its batch, as in training; mean and spread "
            "over random batches with at most one sample per patient",
        },
        "bank": {
            "default": 256, "least": 1, "most": 4096,
            "meaning": "training samples in the bank, at most one per patient",
        },
        "permutations": {
            "default": 20, "least": 1, "meaning": "random orders of the samples with `evaluation: permutations`",
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
        self.bank_size = self.own.bank
        self.bank = Bank(self.bank_size, width)
        self.modality_embedding = normal_parameter(LEAD, width)
        self.joint = nn.ModuleList(EncoderLayer(width, config.heads, config.dropout) for _ in range(joint))
        self.merge = nn.Linear(LEAD * width, 2 * width)
        self.heads = self.linear_heads(2 * width)

    def forward(self, batch: Batch, *, details: bool = False) -> Output:
        name = self.check_task(batch)
        unimodal, contents, packing = self.encoders.sequences(batch, self.embedding)
        with full_precision(batch.device):
            unimodal = unimodal.to(self.threshold.dtype)
            if self.training or not self.uses_bank:
                similarity, mapping_loss = self.similarity(unimodal, batch)
                adjacency = self.adjacency(similarity)
                completed, summary = self.complete(adjacency, unimodal, batch.present)  # (B, 3, d) each
            else:
                similarity, mapping_loss = self.similarity_to_bank(unimodal, batch.present)
                adjacency = self.adjacency(similarity) * self.bank.share
                completed, summary = self.complete_from_bank(adjacency, unimodal, batch.present)
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
            completed.append(graph)
            summary.append(self._summary(part, graph, own, has))
        return torch.stack(completed, dim=1), torch.stack(summary, dim=1)

    @staticmethod
    def _summary(part: Completion, graph: Tensor, own: Tensor, has: Tensor) -> Tensor:
        share = part.gate(graph, own)
        return torch.where(has.unsqueeze(1), share * graph + (1 - share) * own, graph)

    # --- with a bank ----------------------------------------------------------------------------------------------

    def fill_bank(self, batches: Iterable[Batch], *, neighbours: int) -> None:
        if self.training:
            raise ValueError("m3care: expected eval mode where the bank is filled, got training mode")
        with torch.no_grad():
            parts = [(self.encoders(batch, self.embedding), batch.present) for batch in batches]
            if not 1 <= (number := sum(len(present) for _, present in parts)) <= self.bank_size:
                raise ValueError(f"m3care: expected 1 to {self.bank_size} samples for the bank, got {number}")
            with full_precision(self.threshold.device):
                unimodal, present = map(torch.cat, zip(*parts, strict=True))
                self._fill(unimodal.to(self.threshold.dtype), present, neighbours)

    def _fill(self, unimodal: Tensor, present: Tensor, neighbours: int) -> None:
        """Fill the bank with samples of vectors (n, 3, d) and presence (n, 3)."""
        bank, number = self.bank, len(present)
        for name in ("present", "own", "mapped", "first", "second"):
            getattr(bank, name).zero_()
        bank.present[:number] = present
        bank.count()
        for m, name in enumerate(MODALITIES):
            part = cast(Completion, self.completion[name])
            mapped, own = (self._normalise(vectors) for vectors in (part.mapping(unimodal[:, m]), unimodal[:, m]))
            bank.mapped[:number, m], bank.own[:number, m] = mapped, own
            for k, vectors in enumerate((mapped, own)):
                bank.bandwidth[k, m] = bandwidth(squared_distance(vectors[present[:, m]], vectors[present[:, m]]))
        # A row of the bank has one neighbour less than another sample: itself.
        itself = torch.eye(number, dtype=torch.bool, device=present.device)
        similarity = self.similarity_to_bank(unimodal, present)[0][:, :number].masked_fill(itself, 1.0)
        edges = self.adjacency(similarity)
        edges = torch.where(itself, edges, edges * (neighbours / max(1, number - 1)))
        for m, name in enumerate(MODALITIES):
            part, has = cast(Completion, self.completion[name]), present[:, m]
            known = edges * has * has.unsqueeze(1) if self.own.row_mask else edges * has
            bank.first[:number, m] = part.first(unimodal[:, m])
            bank.second[:number, m] = part.second(part.hidden(known, unimodal[:, m]))
        bank.share.fill_(neighbours / number)

    def similarity_to_bank(self, unimodal: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """As `similarity`, between the samples and the rows of the bank, (B, N)."""
        bank = self.bank
        if not bank.filled:
            raise ValueError("m3care: expected a bank of training samples in evaluation, got none; call fill_bank")
        total, loss = unimodal.new_zeros(len(unimodal), self.bank_size), unimodal.new_zeros(())
        for m, name in enumerate(MODALITIES):
            part, has = cast(Completion, self.completion[name]), present[:, m].unsqueeze(1)
            own = unimodal[:, m]
            mapped = part.mapping(own)
            mix = part.mix.sigmoid()
            similar = (1 - mix) * kernel(self._to_bank(mapped, bank.mapped[:, m]), bank.bandwidth[0, m])
            similar = similar + mix * kernel(self._to_bank(own, bank.own[:, m]), bank.bandwidth[1, m])
            total = total + similar * (has & bank.present[:, m])
            loss = loss + ((mapped * has).norm() - (own * has).norm()).abs()
        shared = present.to(unimodal.dtype) @ bank.present.to(unimodal.dtype).T
        return (total / shared.clamp(min=1)).clamp(max=1.0), loss

    def _to_bank(self, vectors: Tensor, rows: Tensor) -> Tensor:
        return squared_distance(self._normalise(vectors), rows)

    def complete_from_bank(self, edges: Tensor, unimodal: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """As `complete`, with ``edges`` (B, N) to the bank and one of each sample to itself."""
        completed, summary = [], []
        itself = self.adjacency(edges.new_ones(()))
        for m, name in enumerate(MODALITIES):
            part, own, has = cast(Completion, self.completion[name]), unimodal[:, m], present[:, m]
            known = edges * self.bank.present[:, m]
            if self.own.row_mask:
                known = known * has.unsqueeze(1)
            loop = (itself * has).unsqueeze(1)
            graph = part.complete_from(known, loop, self.bank.first[:, m], self.bank.second[:, m], own)
            completed.append(graph)
            summary.append(self._summary(part, graph, own, has))
        return torch.stack(completed, dim=1), torch.stack(summary, dim=1)


def gaussian(x: Tensor) -> Tensor:
    """Mean of Gaussian kernels of three bandwidths between the rows of ``x`` (n, d), (n, n)."""
    distance = (x.unsqueeze(1) - x.unsqueeze(0)).square().sum(dim=-1)  # (n, n)
    return kernel(distance, bandwidth(distance))


def kernel(distance: Tensor, width: Tensor) -> Tensor:
    """Mean of Gaussian kernels of three bandwidths of squared distances."""
    return torch.stack([torch.exp(-distance / (scale * width)) for scale in BANDWIDTHS]).mean(dim=0)


def bandwidth(distance: Tensor) -> Tensor:
    """Mean of the squared distances (n, n) of different rows, without gradient; 1 if that is nearly 0."""
    number = len(distance)
    width = distance.detach().sum() / max(1, number * number - number)
    return torch.where(width < 1e-3, torch.ones_like(width), width)


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Between the rows of ``x`` (b, d) and of ``y`` (n, d), (b, n).

    Of differences, as products would round: equal rows have distance 0.
    """
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
