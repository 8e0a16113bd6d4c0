"""FlexCare by the equations of the specification, in explicit loops and float64, one sample at a time.

Uses nothing of the model but its parameters by name. Slow on purpose; torch only for float64 vectors and softmax.
"""

from __future__ import annotations

import math

import torch

COMBINATIONS = ("TIN", "TI", "TN", "IN", "T", "I", "N")


class Reference:
    """Equations (1)-(13) in eval mode with the parameters of a trained model (a state dict)."""

    def __init__(
        self, state, *, heads: int, layers: int, k: int, temperature: float = 0.2, mask: str = "strict"
    ) -> None:
        self.p = {name: value.double() for name, value in state.items()}
        self.heads, self.layers, self.k, self.temperature, self.mask = heads, layers, k, temperature, mask

    def sample(self, batch, row: int, task: str) -> dict[str, torch.Tensor]:
        """All named tensors of one sample."""
        present = [bool(flag) for flag in batch.present[row]]
        tokens, kinds = self.tokens(batch, row, present)
        z = self.encode(tokens, kinds, present)
        task_repr, combos = z[0], z[1:8]
        available = [all(present["TIN".index(m)] for m in name) for name in COMBINATIONS]
        gates, refined = [], []
        for c in range(7):
            gate = self.gate(combos[c], task_repr) if available[c] else torch.zeros(self.p["experts.router"].shape[1])
            gates.append(gate.double())
            refined.append(self.mixture(combos[c], gate) if available[c] else torch.zeros_like(combos[c]))
        score = []
        for c in range(7):
            pair = torch.cat([task_repr, refined[c]])
            hidden = torch.tanh(self.p["fusion.project.weight"] @ pair)
            score.append(float(self.p["fusion.score.weight"][0] @ hidden) + (0.0 if available[c] else -1e7))
        weights = softmax([s / self.temperature for s in score])
        pooled = sum(weights[c] * refined[c] for c in range(7))
        rep = torch.cat([task_repr, self.norm(pooled, "fusion.norm")])
        logits = self.p[f"heads.{task}.weight"] @ rep + self.p[f"heads.{task}.bias"]
        return {
            "task_repr": task_repr,
            "combo_repr": torch.stack(combos),
            "gates": torch.stack(gates),
            "expert_output": torch.stack(refined),
            "fusion_weights": torch.tensor(weights, dtype=torch.float64),
            "decorrelation": torch.tensor(decorrelation(combos), dtype=torch.float64),
            "rep": rep,
            "logits": logits,
        }

    def tokens(self, batch, row, present):
        """Initial vectors and, for each, what it is: 'task', a combination, or the modality of a content."""
        p = self.p
        classes = p["embedding.class_tokens"]
        tokens = [p["task_tokens"][batch.task], *p["combination_tokens"], *classes]
        kinds = ["task", *COMBINATIONS]
        for t in range(int(batch.ts_len[row]) if present[0] else 0):
            x = p["embedding.time_series.weight"] @ batch.ts[row, t].double() + p["embedding.time_series.bias"]
            tokens.append(x + p["embedding.time_series_position"][t])
            kinds.append("content T")
        for patch in range(196 if present[1] else 0):
            top, left = 16 * (patch // 14), 16 * (patch % 14)
            pixels = batch.img[row, :, top : top + 16, left : left + 16].double()
            x = (p["embedding.image.weight"] * pixels).sum(dim=(1, 2, 3)) + p["embedding.image.bias"]
            tokens.append(x + p["embedding.image_position"][patch])
            kinds.append("content I")
        for t in range(int(batch.note_len[row]) if present[2] else 0):
            x = p["embedding.note.weight"] @ batch.note_tok[row, t].double() + p["embedding.note.bias"]
            tokens.append(x + p["embedding.note_position"][t])
            kinds.append("content N")
        return tokens, kinds

    def added(self, reader: int, key: int, kinds: list[str], present: list[bool]) -> float:
        """What the mask adds to the logit of ``reader`` for ``key``."""
        a, b = kinds[reader], kinds[key]
        hidden = len(b) == 1 and not present["TIN".index(b)]  # class token of an absent modality
        if a == "task":
            allowed = True
        elif a.startswith("content"):
            allowed = a == b
        else:
            allowed = reader == key or (b.startswith("content") and b[-1] in a)
        if self.mask == "strict":
            return 0.0 if reader == key or (allowed and not hidden) else -math.inf
        return -math.inf if hidden else (0.0 if allowed or reader == key else 1.0)

    def encode(self, tokens, kinds, present):
        for layer in range(self.layers):
            tokens = self.layer(tokens, kinds, present, f"encoder.{layer}")
        return tokens

    def layer(self, tokens, kinds, present, name):
        p, d = self.p, len(tokens[0])
        size = d // self.heads
        projected = [p[f"{name}.attention_in.weight"] @ x + p[f"{name}.attention_in.bias"] for x in tokens]
        added = [[self.added(i, j, kinds, present) for j in range(len(tokens))] for i in range(len(tokens))]
        parts = torch.stack(projected).unflatten(1, (3, self.heads, size))  # queries, keys, values of each head
        out = []
        for i, x in enumerate(tokens):
            read = []
            for h in range(self.heads):
                query, keys, values = parts[i, 0, h], parts[:, 1, h], parts[:, 2, h]
                products = (keys @ query).tolist()
                logits = [product / math.sqrt(size) + extra for product, extra in zip(products, added[i], strict=True)]
                read.append(torch.tensor(softmax(logits), dtype=torch.float64) @ values)
            mixed = p[f"{name}.attention_out.weight"] @ torch.cat(read) + p[f"{name}.attention_out.bias"]
            a = self.norm(x + mixed, f"{name}.attention_norm")
            hidden = (p[f"{name}.expand.weight"] @ a + p[f"{name}.expand.bias"]).clamp(min=0)
            a = a + p[f"{name}.contract.weight"] @ hidden + p[f"{name}.contract.bias"]
            out.append(self.norm(a, f"{name}.feedforward_norm"))
        return out

    def norm(self, x, name):
        centred = x - sum(x) / len(x)
        variance = sum(centred**2) / len(x)
        return centred / torch.sqrt(variance + 1e-5) * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def gate(self, x, q):
        logits = [
            float(x @ self.p["experts.router"][:, e] + q @ self.p["experts.task_router"][:, e])
            for e in range(self.p["experts.router"].shape[1])
        ]
        kept = sorted(range(len(logits)), key=lambda e: -logits[e])[: self.k]
        weights = softmax([logits[e] for e in kept])
        gate = torch.zeros(len(logits), dtype=torch.float64)
        for e, weight in zip(kept, weights, strict=True):
            gate[e] = weight
        return gate

    def mixture(self, x, gate):
        total = torch.zeros_like(x)
        for e in range(len(gate)):
            if gate[e] > 0:
                hidden = (x @ self.p["experts.expand"][e] + self.p["experts.expand_bias"][e]).clamp(min=0)
                total += gate[e] * (hidden @ self.p["experts.contract"][e] + self.p["experts.contract_bias"][e])
        return total


def softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    powers = [math.exp(value - top) for value in logits]
    return [power / sum(powers) for power in powers]


def decorrelation(combos) -> float:
    """r(C) of one sample with Q = (K-1)^2, by three loops."""
    number, d = len(combos), len(combos[0])
    centred = [[float(c[f]) - float(sum(c)) / d for f in range(d)] for c in combos]
    total = 0.0
    for i in range(number):
        for j in range(number):
            if i != j:
                covariance = sum(centred[i][f] * centred[j][f] for f in range(d)) / (d - 1)
                total += covariance**2
    return total / (number - 1) ** 2


def balance(gates: torch.Tensor) -> float:
    """L_moe of the given gates (rows of available pairs) in eval mode."""
    rows = [row for row in gates.reshape(-1, gates.shape[-1]).tolist() if sum(row) > 0]
    experts = len(rows[0])
    importance = [sum(row[e] for row in rows) for e in range(experts)]
    load = [sum(row[e] > 0 for row in rows) for e in range(experts)]
    return 0.01 * (variation(importance) + variation(load))


def variation(values: list[float]) -> float:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return variance / (mean**2 + 1e-10)
