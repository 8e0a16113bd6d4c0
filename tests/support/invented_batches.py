"""Small invented batches and models for the tests of the models."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import torch

from flexcare_data.modalities import MODALITIES
from flexcare_data.tasks import TASKS
from flexcare_model.data.batch import COLUMNS, Batch
from flexcare_model.models import MODELS, Model, ModelConfig

PATTERNS = [(1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
"""The seven ways in which modalities (T, I, N) can be present."""
OUTPUTS = {name: task.n_outputs or 7 for name, task in TASKS.items()}
SMALL = ModelConfig(hidden_dim=16, note_width=12, layers=2, experts=5, experts_per_token=2)
NAMES = list(MODELS)
FLEXCARE = [name for name in NAMES if name.startswith("flexcare") and name != "flexcare_released"]
"""FlexCare and its variants with the strict mask."""


def make_batch(patterns=PATTERNS, **options) -> Batch:
    """A checked batch with these present modalities; options as in `_batch`. Do not write into its tensors."""
    return _batch(tuple(tuple(pattern) for pattern in patterns), **options)


@cache
def _batch(
    patterns: tuple[tuple[int, ...], ...], *, task: str = "in_hospital_mortality", hours: int = 9, tokens: int = 11,
    seed: int = 0, note_width: int = 12, dtype: torch.dtype = torch.float32,
) -> Batch:  # fmt: skip
    """Lengths are drawn from 1 to ``hours`` and ``tokens``."""
    generator = torch.Generator().manual_seed(seed)
    size, present = len(patterns), torch.tensor(patterns, dtype=torch.bool)
    ts_len = torch.randint(1, hours + 1, (size,), generator=generator) * present[:, 0]
    note_len = torch.randint(1, tokens + 1, (size,), generator=generator) * present[:, 2]
    kind, columns = TASKS[task].kind, OUTPUTS[task]
    if kind == "multilabel":
        label = torch.randint(-2 if task == "diagnosis" else 0, 2, (size, columns), generator=generator)
    else:
        label = torch.randint(0, 2 if kind == "binary" else columns, (size,), generator=generator)

    def padded(length, width):
        values = torch.randn(size, int(length.max()), width, generator=generator, dtype=dtype)
        return values * (torch.arange(values.shape[1]) < length[:, None]).unsqueeze(-1)

    ts = padded(ts_len, COLUMNS) if ts_len.max() else torch.zeros(size, 1, COLUMNS, dtype=dtype)
    img = torch.randn(size, 3, 224, 224, generator=generator, dtype=dtype) * present[:, 1, None, None, None]
    return Batch(ts, ts_len, img, padded(note_len, note_width), note_len, present, label, TASKS[task].id).check()


def make_model(name: str, *, seed: int = 1, spread: bool = True, task: str | None = None, **options) -> Model:
    """A model in eval mode; multi-task ones have all heads. ``spread`` replaces zero starting values by random ones.

    ``options`` are fields of `ModelConfig` or settings that the model declares.
    """
    torch.manual_seed(seed)
    outputs = (
        OUTPUTS
        if MODELS[name].multi_task and task is None
        else {t: OUTPUTS[t] for t in [task or "in_hospital_mortality"]}
    )
    own = {key: options.pop(key) for key in set(options) - {part.name for part in fields(SMALL)}}
    model = MODELS[name](replace(SMALL, **MODELS[name].usual() | options, own=own), outputs)
    if spread:
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.3)
    model.eval()
    if model.bank_size:
        task = next(iter(outputs))
        dtype = next(model.parameters()).dtype
        batch = make_batch(PATTERNS * 2, task=task, seed=9, note_width=model.config.note_width, dtype=dtype, hours=4)
        model.fill_bank([batch], neighbours=7)
    return model


@cache
def modalities_read(name: str) -> tuple[str, ...]:
    """The modalities whose content changes the scores of the model ``name``."""
    model, batch = make_model(name), make_batch([(1, 1, 1)] * 2)
    before, read = scores(model, batch), []
    for modality, field in zip(MODALITIES, ("ts", "img", "note_tok"), strict=True):
        if not torch.equal(scores(model, changed(batch, **{field: getattr(batch, field) + 1.0})), before):
            read.append(modality)
    return tuple(read)


def changed(batch: Batch, **fields) -> Batch:
    """``batch`` with other fields, lengths and presence as they say."""
    return replace(batch, visible=None, **fields)


def assert_equal_up_to_rounding(
    actual: torch.Tensor, expected: torch.Tensor, name: str = "", *, ulps: int = 16
) -> None:
    """The same numbers but for ``ulps`` units in the last place of the largest one (of 1, if that is larger).

    For one sum that is computed in two ways: in tensors of other shapes, or in other rows of one matrix product. A
    kernel computes the rows and columns that do not fill its vectors with another order of the sum or without fused
    multiply-add, and the width of its vectors depends on the processor. Runs of one shape are compared bit by bit.
    """
    if not expected.is_floating_point():
        assert torch.equal(actual, expected), name
        return
    largest = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
    allowed = ulps * torch.finfo(expected.dtype).eps * largest
    torch.testing.assert_close(actual, expected, rtol=0, atol=allowed, msg=lambda text: f"{name} {text}")


def scores(model: Model, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(batch).logits


def details(model: Model, batch: Batch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model(batch, details=True).details
