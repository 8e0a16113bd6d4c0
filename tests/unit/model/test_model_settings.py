"""What a setting of one model changes, against a small computation by hand; and what holds with every other value."""

from __future__ import annotations

import pytest
import torch
from support.invented_batches import (
    PATTERNS,
    assert_equal_up_to_rounding,
    changed,
    details,
    make_batch,
    make_model,
    scores,
)
from support.parts_of_batches import take
from torch.nn import functional as F

from flexcare_data import discovery, variables
from flexcare_data.modalities import MODALITIES
from flexcare_data.train_settings import PER_MODEL
from flexcare_model.data.batch import COLUMNS, Batch
from flexcare_model.models import MODELS, ModelConfig
from flexcare_model.models.base import SettingError
from flexcare_model.models.losses import prediction_loss
from flexcare_model.models.set_embedding import as_sets, columns_of_variables

TASK = "in_hospital_mortality"


def others() -> list[tuple[str, str, object]]:
    """Every setting that a model declares for itself, with each other value."""
    found = []
    for name, model in discovery.models().items():
        for one in model.settings:
            if one.default is None or not one.meaning or one.name in PER_MODEL:
                continue
            if one.choices:
                values: list[object] = [value for value in one.choices if value != one.default]
            elif isinstance(one.default, bool):
                values = [not one.default]
            else:
                values = [type(one.default)(one.default + 1)]
            found += [(name, one.name, value) for value in values]
    return found


@pytest.mark.parametrize(("name", "setting", "value"), others())
def test_with_another_value_the_rules_of_a_model_hold(name, setting, value):
    """Nothing is NaN, padding has no effect, a sample alone scores as in a batch, every parameter has a gradient."""
    model, batch = make_model(name, **{setting: value}), make_batch(PATTERNS * 2, hours=20, tokens=11)
    together = scores(model, batch)
    ts = torch.full((len(batch), 25, COLUMNS), torch.nan)
    for row, n in enumerate(batch.ts_len.tolist()):
        ts[row, :n] = batch.ts[row, :n]
    assert_equal_up_to_rounding(scores(model, changed(batch, ts=ts)), together)
    alone = torch.cat([scores(model, take(batch, [row])) for row in range(len(batch))])
    torch.testing.assert_close(alone, together, rtol=0, atol=2e-6)
    model.train()
    for patterns in (PATTERNS, [(1, 0, 0)] * 2, [(0, 1, 0)], [(0, 0, 1)]):
        part = make_batch(patterns, hours=1, tokens=3)
        loss = model.loss(model(part), part)
        loss.backward()
        assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()
    whole = make_batch([(1, 1, 1)] * 6 + [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
    output = model(whole)
    (model.loss(output, whole) + sum(output.extra_losses.values())).backward()
    without = [
        key
        for key, parameter in model.named_parameters()
        if not (key.startswith("heads.") and TASK not in key) and (parameter.grad is None or not parameter.grad.any())
    ]
    assert not without


def test_defaults_are_what_the_file_declares():
    for name, declared in discovery.models().items():
        inherited = [one for base in declared.bases for one in discovery.models()[base].settings]
        expected = {one.name: one.default for one in reversed((*declared.settings, *inherited))}
        expected = {key: value for key, value in expected.items() if value is not None}
        assert MODELS[name].declared_defaults() == expected
    assert MODELS["flexcare_released"].usual() == {"attention_mask": "released", "note_dropout": 0.1}


def test_unknown_settings_and_layers_that_do_not_exist_are_refused():
    with pytest.raises(SettingError, match=r"mt: expected settings of fusion_layer, answer, aux_weight; got fusion"):
        MODELS["mt"](ModelConfig(own={"fusion": 1}), {TASK: 1})
    for name in ("mt", "mmf"):
        with pytest.raises(SettingError, match=rf"{name}: expected fusion_layer 0 to layers \(2\), got 3"):
            make_model(name, fusion_layer=3)


# --- MT ---------------------------------------------------------------------------------------------------------


def test_mt_answers_with_the_token_of_the_only_modality():
    model, batch = make_model("mt", answer="present"), make_batch()
    tokens = details(model, batch)["class_outputs"]
    head = model.heads[TASK]
    answers = []
    for row, pattern in enumerate(PATTERNS):
        token = tokens[row, 1 + pattern.index(1)] if sum(pattern) == 1 else tokens[row, 0]
        answers.append(head.weight @ token + head.bias)
    expected = torch.stack(answers)
    torch.testing.assert_close(scores(model, batch), expected)
    joint = make_model("mt")
    assert not torch.allclose(scores(joint, batch)[4:], expected[4:], atol=1e-4)
    torch.testing.assert_close(scores(joint, batch)[:4], expected[:4])
    single = [
        prediction_loss(
            tokens[batch.present[:, m], 1 + m] @ head.weight.T + head.bias, batch.label[batch.present[:, m]], TASK
        )
        for m in range(3)
    ]
    torch.testing.assert_close(
        model.loss(model(batch), batch), prediction_loss(expected, batch.label, TASK) + sum(single) / 3
    )


# --- MedFuse ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "order"), [("diagnosis", (1, 0, 2)), ("drg", (2, 0, 1)), ("readmission", (0, 1, 2))])
def test_medfuse_begins_with_the_modality_of_the_task(task, order):
    model, batch = make_model("medfuse", order="task_first", task=task), make_batch(task=task)
    found = details(model, batch)
    for row, pattern in enumerate(PATTERNS):
        state = cell = torch.zeros(16)
        for m in order:
            if pattern[m]:
                part = model.project[MODALITIES[m]]
                x = part.weight @ found["unimodal"][row, m] + part.bias
                state, cell = lstm_step(model.lstm, x, state, cell)
        torch.testing.assert_close(found["rep"][row], state.detach(), rtol=0, atol=1e-6)


def lstm_step(lstm, x, state, cell):
    """One step by the equations of an LSTM, from its weights."""
    gates = lstm.weight_ih_l0 @ x + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ state + lstm.bias_hh_l0
    into, forget, new, out = gates.split(16)
    cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
    return out.sigmoid() * cell.tanh(), cell


def test_medfuse_drops_the_series_vector_and_nothing_else():
    """Without other dropout, a sample without series is the same in training, and one with it is not."""
    model = make_model("medfuse", dropout_at="series", dropout=0.0).train()
    without, with_series = make_batch([(0, 1, 1), (0, 0, 1)]), make_batch([(1, 0, 0)] * 2)
    plain = make_model("medfuse", dropout=0.0)
    torch.testing.assert_close(scores(model, without), scores(plain, without))
    assert not torch.allclose(scores(model, with_series), scores(plain, with_series), atol=1e-5)
    torch.manual_seed(5)
    found = details(model, with_series)
    torch.manual_seed(5)
    dropped = F.dropout(found["unimodal"][:, 0], 0.3, training=True)
    part = model.project["time_series"]
    for row in range(2):
        x = part.weight @ dropped[row] + part.bias
        state, _ = lstm_step(model.lstm, x, torch.zeros(16), torch.zeros(16))
        torch.testing.assert_close(found["rep"][row], state.detach(), rtol=0, atol=1e-6)


# --- MMF --------------------------------------------------------------------------------------------------------


def measured(batch: Batch, row: int, most: int) -> list[tuple[int, float, int]]:
    """(hours before the end, value, column) of the measured values of a sample, in plain loops."""
    found, n = [], int(batch.ts_len[row])
    spans, start = [], 0
    for name in variables.VARIABLES:
        width = len(variables.CATEGORIES[name]) if name in variables.CATEGORIES else 1
        spans.append((start, start + width))
        start += width
    for hour in range(n):
        for number, (begin, end) in enumerate(spans):
            if float(batch.ts[row, hour, start + number]) > 0.5:
                cells = batch.ts[row, hour, begin:end].tolist()
                column = begin + cells.index(max(cells))
                found.append((n - 1 - hour, float(batch.ts[row, hour, column]), column))
    return found[-most:]


def with_masks(batch: Batch) -> Batch:
    """``batch`` with observation masks of 0 and 1 in its series, and one sample without any measured value."""
    ts, values = batch.ts.clone(), COLUMNS - len(variables.VARIABLES)
    ts[..., values:] = (ts[..., values:] > 0.3).float()
    ts[0, :, values:] = 0
    return changed(batch, ts=ts)


@pytest.mark.parametrize("most", [1000, 7])
def test_sets_hold_the_measured_values(most):
    batch = with_masks(make_batch(PATTERNS * 2))
    sets = as_sets(batch, most)
    for row in range(len(batch)):
        expected = measured(batch, row, most) if batch.present[row, 0] else []
        assert int(sets.ts_len[row]) == len(expected)
        if expected:
            torch.testing.assert_close(sets.ts[row, : len(expected)], torch.tensor(expected))
    assert sets.visible[0, 0] == 1 and sets.visible[1, 0] == 1 + min(most, len(measured(batch, 1, 1000)))
    assert [span.start for span in columns_of_variables()][-1] < COLUMNS - len(variables.VARIABLES)


def test_mmf_embeds_each_measured_value_with_its_time_and_type():
    model, batch = make_model("mmf", series="set", set_values=9), with_masks(make_batch([(1, 0, 1), (1, 1, 0)]))
    embedding = model.embedding
    flat, packing = embedding.packed(batch, with_class=True)
    for group, tokens in zip(packing.groups, packing.split(flat), strict=True):
        if group.modality:
            continue
        for row, sequence in zip(group.rows.tolist(), tokens, strict=True):
            torch.testing.assert_close(sequence[0], embedding.class_tokens[0])
            for place, (time, value, column) in enumerate(measured(batch, row, 9), 1):
                expected = embedding.value_type[column]
                for part, number in ((embedding.value_time, time / 24), (embedding.value_size, value)):
                    hidden = (part[0].weight[:, 0] * number + part[0].bias).clamp(min=0)
                    expected = expected + part[2].weight @ hidden + part[2].bias
                torch.testing.assert_close(sequence[place], expected)
    hour = changed(batch, ts=batch.ts.flip(1) if batch.ts_len.unique().numel() == 1 else batch.ts * 2)
    assert not torch.allclose(scores(model, hour), scores(model, batch))


def test_mmf_has_as_many_bottlenecks_as_set():
    assert make_model("mmf", bottlenecks=2).bottlenecks.shape == (2, 16)


# --- M3Care, MultiModN, FlexCare --------------------------------------------------------------------------------


def test_m3care_weighs_the_loss_on_the_mapping():
    batch, output = make_batch(), None
    losses = []
    for beta in (0.0, 2.0):
        model = make_model("m3care", beta=beta)
        output = model(batch)
        losses.append(float(model.loss(output, batch).detach()))
    assert losses[1] - losses[0] == pytest.approx(2 * float(output.extra_losses["mapping"].detach()), rel=1e-4)


@pytest.mark.parametrize("name", ["multimodn", "multimodn_together"])
def test_multimodn_decodes_with_two_layers_of_32(name):
    model, batch = make_model(name, decoder="two_of_32"), make_batch(task="phenotyping")
    if name == "multimodn":
        model = make_model(name, decoder="two_of_32", task="phenotyping")
    state = details(model, batch)["states"][:, -1]
    first, second, last = (model.heads["phenotyping"][place] for place in (0, 2, 4))
    assert first.weight.shape == (32, 16) and second.weight.shape == (32, 32) and last.weight.shape == (25, 32)
    hidden = (state @ first.weight.T + first.bias).clamp(min=0)
    hidden = (hidden @ second.weight.T + second.bias).clamp(min=0)
    torch.testing.assert_close(scores(model, batch), hidden @ last.weight.T + last.bias)
    assert not hasattr(model, "decoder_in")


def test_multimodn_together_has_a_decoder_for_each_task():
    """A batch of one task gives a gradient to the decoder of this task and to the shared state, to no other decoder."""
    model, batch = make_model("multimodn_together"), make_batch(task="readmission")
    model.loss(model(batch), batch).backward()
    assert model.initial_state.grad.any() and model.heads["readmission"][4].weight.grad.any()
    assert all(p.grad is None for task, head in model.heads.items() if task != "readmission" for p in head.parameters())


def test_copied_layers_start_equal_and_train_apart():
    model, batch = make_model("flexcare_released", spread=False, layers=3), make_batch()
    first, *rest = (dict(layer.named_parameters()) for layer in model.encoder)
    assert all(torch.equal(first[key], layer[key]) for layer in rest for key in first)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(model(batch), batch).backward()
        optimizer.step()
    assert not torch.equal(model.encoder[0].expand.weight, model.encoder[1].expand.weight)
    apart = make_model("flexcare", spread=False, layers=3)
    assert not torch.equal(apart.encoder[0].expand.weight, apart.encoder[1].expand.weight)


def test_flexcare_released_is_flexcare_with_the_released_mask():
    """The same answers with the same weights. The loop version of the equations has this mask too."""
    released, flexcare = make_model("flexcare_released"), make_model("flexcare", attention_mask="released")
    flexcare.load_state_dict(released.state_dict())
    strict = make_model("flexcare")
    strict.load_state_dict(released.state_dict())
    batch = make_batch()
    assert torch.equal(scores(released, batch), scores(flexcare, batch))
    assert not torch.allclose(scores(released, batch), scores(strict, batch), atol=1e-4)
    assert released.config.note_dropout == 0.1
