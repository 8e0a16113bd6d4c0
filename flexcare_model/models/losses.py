"""Losses: one prediction loss per kind of task, and the two regularisers of FlexCare (equations 5 to 10, 13)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from flexcare_data.tasks import TASKS


def prediction_loss(logits: Tensor, labels: Tensor, task: str) -> Tensor:
    """Mean loss of ``logits`` (B, C) for the labels of ``task`` (its name), a scalar.

    Binary and multi-label: binary cross-entropy, one flat mean over all entries with label > -1 (uncertain and blank
    CheXpert labels are ignored); 0 with a gradient where no entry is kept. Multi-class: cross-entropy, labels are
    class numbers, mean over samples; 0 with a gradient for no samples.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if TASKS[task].kind == "multiclass":
        return F.cross_entropy(logits, labels.long(), reduction="sum") / max(1, len(labels))
    labels = labels.to(logits.dtype).reshape(logits.shape)
    kept = labels > -1
    loss = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), reduction="none")
    # where() instead of a product or an index: no synchronisation, and a gradient of exactly 0 for ignored entries.
    return torch.where(kept, loss, 0).sum() / kept.sum().clamp(min=1)


def decorrelation(
    tokens: Tensor,
    normaliser: Literal["code", "mean_offdiag"] = "code",
    available: Tensor | None = None,
) -> Tensor:
    """Equations (5)-(6): r(C) of each sample, (B,).

    Args:
        tokens: (B, K, d) outputs of the combination tokens. Each is centred over its own d features.
        normaliser: of the sum of squared off-diagonal covariances: (K-1)^2 as released, or their number K(K-1).
        available: (B, K); if given, only pairs of available combinations count, and K becomes their number.
    """
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    covariance = centred @ centred.transpose(-1, -2) / (tokens.shape[-1] - 1)  # (B, K, K)
    counted = ~torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)  # (K, K)
    number = tokens.new_full((len(tokens),), tokens.shape[1])
    if available is not None:
        counted = counted & available.unsqueeze(1) & available.unsqueeze(2)  # (B, K, K)
        number = available.sum(dim=1).to(tokens.dtype)
    total = torch.where(counted, covariance.square(), 0).sum(dim=(1, 2))  # (B,)
    divisor = (number - 1) * ((number - 1) if normaliser == "code" else number)
    return total / divisor.clamp(min=1)


def squared_variation(values: Tensor) -> Tensor:
    """cv^2 of ``values`` (E,): unbiased variance over squared mean; 0 for a single value."""
    if len(values) < 2:
        return values.sum() * 0
    return values.var(unbiased=True) / (values.mean().square() + 1e-10)


def expected_load(noisy: Tensor, clean: Tensor, std: Tensor, k: int) -> Tensor:
    """Expected number of rows for which each expert is chosen, (E,), smooth in the router's weights.

    The probability that expert e stays or enters among the k largest if only its own noise were drawn again.

    Args:
        noisy, clean, std: (V, E) logits with noise, without, and the standard deviation of the noise.
        k: experts per row, below E.
    """
    top = noisy.topk(k + 1, dim=-1).values  # (V, k + 1), falling
    inside, outside = top[:, k : k + 1], top[:, k - 1 : k]
    threshold = torch.where(noisy > inside, inside, outside)  # (V, E)
    return torch.special.ndtr((clean - threshold) / std).sum(dim=0)
