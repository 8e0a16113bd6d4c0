"""What holds for every model in `MODELS`; docs/add_a_model.md lists it. A new file is tested without an edit here."""

from __future__ import annotations

import pytest
import torch
from support.invented_batches import (
    NAMES,
    OUTPUTS,
    PATTERNS,
    assert_equal_up_to_rounding,
    changed,
    details,
    make_batch,
    make_model,
    modalities_read,
    scores,
)
from support.parts_of_batches import take

from flexcare_data.modalities import MODALITIES
from flexcare_data.tasks import TASKS
from flexcare_model.data.batch import COLUMNS
from flexcare_model.models import MODELS

WITHOUT_ONE = {
    "no series": [p for p in PATTERNS if not p[0]],
    "no image": [p for p in PATTERNS if not p[1]],
    "no note": [p for p in PATTERNS if not p[2]],
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_logits_of_every_task(name, task):
    model, batch = make_model(name, task=task), make_batch(task=task)
    output = model(batch)
    assert output.logits.shape == (7, OUTPUTS[task])
    assert output.logits.isfinite().all()
    assert output.details == {}
    loss = model.loss(output, batch)
    assert loss.shape == () and loss.isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_details_on_request_change_nothing(name):
    model, batch = make_model(name), make_batch()
    output = model(batch, details=True)
    assert "rep" in output.details and len(output.details["rep"]) == 7
    assert torch.equal(output.logits, model(batch).logits)


@pytest.mark.parametrize("name", NAMES)
def test_padding_has_no_effect(name):
    """Longer padding filled with NaN, and NaN in the padding that is there: every output is the same.

    Up to rounding, as a model may compute on the padded shape.
    """
    model, batch = make_model(name), make_batch()
    ts, note = torch.full((7, 13, COLUMNS), torch.nan), torch.full((7, 17, 12), torch.nan)
    for padded, source, length in ((ts, batch.ts, batch.ts_len), (note, batch.note_tok, batch.note_len)):
        for row, n in enumerate(length.tolist()):
            padded[row, :n] = source[row, :n]
    before, after = details(model, batch), details(model, changed(batch, ts=ts, note_tok=note))
    for key, value in before.items():
        assert_equal_up_to_rounding(after[key], value, key)


@pytest.mark.parametrize("filling", [3.0, torch.nan])
@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in NAMES]
    + [
        (name, options)
        for name in NAMES
        if name.startswith("flexcare")
        for options in ({"encoder": "dense"}, {"attention_mask": "released"})
    ],
)
def test_absent_content_has_no_effect(name, options, filling):
    model, batch = make_model(name, **options), make_batch()
    fields = {}
    for m, field in enumerate(("ts", "img", "note_tok")):
        value = getattr(batch, field).clone()
        value[~batch.present[:, m]] = filling
        fields[field] = value
    before, after = model(batch, details=True), model(changed(batch, **fields), details=True)
    assert torch.equal(before.logits, after.logits)
    for key, value in before.extra_losses.items():
        assert torch.equal(after.extra_losses[key], value), key
    for key, value in before.details.items():
        assert torch.equal(after.details[key], value), key


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_alone_scores_as_in_a_batch(name):
    model, batch = make_model(name), make_batch(PATTERNS * 3, hours=60, tokens=90)
    together = scores(model, batch)
    alone = torch.cat([scores(model, take(batch, [row])) for row in range(len(batch))])
    torch.testing.assert_close(alone, together, rtol=0, atol=2e-6)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0)).tolist()
    torch.testing.assert_close(scores(model, take(batch, order)), together[order], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_another_order_of_the_rows_reorders_the_scores(name):
    model, batch = make_model(name), make_batch()
    torch.testing.assert_close(scores(model, take(batch, [6, 5, 4, 3, 2, 1, 0])), scores(model, batch).flip(0), rtol=0,
                               atol=1e-5)  # fmt: skip


@pytest.mark.parametrize(
    "patterns",
    [PATTERNS, *WITHOUT_ONE.values(), [(1, 0, 0)] * 2, [(0, 1, 0)], [(0, 0, 1)], [(1, 1, 1)]],
    ids=["all seven", *WITHOUT_ONE, "series only", "one image", "one note", "one with all"],
)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_nan(name, patterns):
    """Scores, losses and gradients, in training; T = 1 and N = 0 come with the patterns."""
    model, batch = make_model(name).train(), make_batch(patterns, hours=1, tokens=3)
    output = model(batch, details=True)
    model.loss(output, batch).backward()
    assert output.logits.isfinite().all()
    assert all(value.isfinite().all() for value in output.extra_losses.values())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_a_note_without_word_pieces_is_present_and_empty(name):
    model = make_model(name).train()
    batch = make_batch([(0, 0, 1), (1, 0, 1)], tokens=1)
    batch = changed(batch, note_tok=batch.note_tok[:, :0], note_len=torch.zeros(2, dtype=torch.int64)).check()
    output = model(batch)
    model.loss(output, batch).backward()
    assert output.logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_the_task_gets_a_gradient(name):
    model, batch = make_model(name, dropout=0.0).train(), make_batch([(1, 1, 1)] * 6)
    output = model(batch)
    # The extra losses with weight 1: some defaults are too small to tell a gradient from rounding.
    (model.loss(output, batch) + sum(output.extra_losses.values())).backward()
    unread = tuple(f"embedding.{modality}" for modality in set(MODALITIES) - set(modalities_read(name)))
    for key, parameter in model.named_parameters():
        if key.startswith("heads.") and "in_hospital_mortality" not in key:
            assert parameter.grad is None, key
        elif not (unread and key.startswith(unread)):
            assert parameter.grad is not None and parameter.grad.any(), key
    if hasattr(model, "embedding") and "time_series" in modalities_read(name):
        used = model.embedding.time_series_position.grad.any(dim=1)
        assert used[: batch.ts.shape[1]].all() and not used[batch.ts.shape[1] :].any()


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_repeats_itself_and_training_does_not(name):
    model, batch = make_model(name), make_batch()
    assert torch.equal(scores(model, batch), scores(model, batch))
    model.train()
    assert not torch.equal(scores(model, batch), scores(model, batch))


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_from_one_seed_agree(name):
    states = []
    for _ in range(2):
        model, batch = make_model(name, seed=3).train(), make_batch()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            model.loss(model(batch), batch).backward()
            optimizer.step()
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", NAMES)
def test_unknown_labels_of_the_diagnosis_have_no_effect(name):
    """Entries labelled -1 or -2 change neither loss nor gradient, whatever is predicted there."""
    batch = make_batch(task="diagnosis")
    model = make_model(name, task="diagnosis")
    output = model(batch)
    gradient = torch.autograd.grad(model.loss(output, batch), output.logits, allow_unused=True)[0]
    other = changed(batch, label=torch.where(batch.label < 0, -3 - batch.label, batch.label))  # -1 and -2 exchanged
    assert torch.equal(model.loss(model(other), other), model.loss(output, batch))
    if gradient is not None:  # MultiModN's last read-out is computed apart from its answer
        assert gradient[batch.label < 0].eq(0).all() and gradient[batch.label >= 0].ne(0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_diagnosis_batch_without_known_labels_has_a_loss_with_gradient(name):
    model, batch = make_model(name, task="diagnosis"), make_batch(task="diagnosis")
    batch = changed(batch, label=torch.full_like(batch.label, -2))
    loss = model.loss(model(batch), batch)
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_notes_and_mixed_precision(name):
    """Cached note vectors are float16; bfloat16 mixed precision changes scores a little and nothing else."""
    model, batch = make_model(name).train(), make_batch()
    half = changed(batch, note_tok=batch.note_tok.half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(half)
        loss = model.loss(output, half)
    loss.backward()
    assert output.logits.isfinite().all() and loss.dtype == torch.float32
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = scores(model, half).float()
    torch.testing.assert_close(mixed, scores(model, half), rtol=0.2, atol=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_a_longer_series_than_positions_is_refused(name):
    """A model without positions reads it."""
    model, batch = make_model(name, max_hours=4), make_batch([(1, 0, 0)] * 8, hours=9)
    if not hasattr(model, "embedding"):
        assert scores(model, batch).isfinite().all()
        return
    with pytest.raises(ValueError, match="time_series: expected at most 4 positions, got"):
        model(batch)


@pytest.mark.parametrize("name", NAMES)
def test_notes_of_2048_word_pieces(name):
    """A step has a finite loss, and a gradient at the last position; one piece more is refused."""
    model = make_model(name, max_tokens=2048, note_width=20, dropout=0.1).train()
    batch = make_batch([(1, 1, 1), (0, 0, 1), (1, 0, 1)], tokens=2048, note_width=20)
    longest = batch.note_tok.new_zeros(3, 2048, 20)
    longest[:, : batch.note_tok.shape[1]] = batch.note_tok
    batch = changed(batch, note_tok=longest, note_len=torch.tensor([2048, 3, 900]))
    loss = model.loss(model(batch), batch)
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    if (embedding := getattr(model, "embedding", None)) is None or embedding.note_position.grad is None:
        return
    assert embedding.note_position.grad[2047].any()
    longer = changed(batch, note_tok=torch.randn(3, 2049, 20), note_len=torch.tensor([2049, 3, 900]))
    with pytest.raises(ValueError, match=r"note: expected at most 2048 positions, got 2049; .*max_tokens"):
        model(longer)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_named_after_modules_only(name):
    """Weights are copied in by name, so no parameter hides in a list without a name or is registered twice."""
    model = make_model(name)
    assert len(dict(model.named_parameters())) == len(list(model.parameters()))
    assert set(model.state_dict()) >= set(dict(model.named_parameters()))
    assert MODELS[name].__doc__


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_overfits_random_labels(name):
    """64 samples with random labels, each with something that the model reads, are learned by heart in 400 steps."""
    from flexcare_model.training.metrics import auroc

    read = [MODALITIES.index(modality) for modality in modalities_read(name)]
    patterns = [p for p in ((1, 0, 1), (1, 0, 0), (0, 0, 1), (1, 0, 1)) if any(p[m] for m in read)]
    patterns = [*patterns, *[(1, 1, 1)] * 4][:4]
    batch = make_batch(patterns * 16, hours=4, tokens=4)
    model = make_model(name, spread=False, hidden_dim=32, layers=2, dropout=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    reached = 0.0
    for number in range(400):
        optimizer.zero_grad()
        model.loss(model(batch), batch).backward()
        optimizer.step()
        if number % 50 == 49:
            model.eval()
            if model.bank_size:
                model.fill_bank([batch], neighbours=len(batch) - 1)
            reached = auroc(batch.label.numpy(), scores(model, batch)[:, 0].numpy())
            model.train()
            if reached > 0.99:
                break
    assert reached > 0.97


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_scores_as_the_cpu_does(name):
    model, batch = make_model(name), make_batch(PATTERNS * 2, hours=40, tokens=30)
    expected = scores(model, batch)
    model, moved = model.cuda(), batch.to("cuda")
    torch.testing.assert_close(scores(model, moved).cpu(), expected, rtol=0, atol=1e-4)
    model.train()
    model.loss(model(moved), moved).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
