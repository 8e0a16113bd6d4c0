"""What each baseline is about, beyond what holds for all models."""

from __future__ import annotations

import math

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

from flexcare_model.models.losses import prediction_loss
from flexcare_model.models.m3care import gaussian

MODALITY_FIELDS = ("ts", "img", "note_tok")


def test_medfuse_with_only_an_image_is_its_lstm_on_one_step():
    model, batch = make_model("medfuse"), make_batch([(0, 1, 0)] * 3)
    found = details(model, batch)
    with torch.no_grad():
        step = model.project["image"](found["unimodal"][:, 1]).unsqueeze(1)  # (B, 1, d)
        _, (state, _) = model.lstm(step)
        logits = model.heads["in_hospital_mortality"](state[-1])
    torch.testing.assert_close(found["rep"], state[-1], rtol=0, atol=1e-6)
    torch.testing.assert_close(scores(model, batch), logits, rtol=0, atol=1e-6)


def test_medfuse_reads_present_modalities_in_order():
    model, batch = make_model("medfuse"), make_batch([(1, 0, 1)])
    found = details(model, batch)
    with torch.no_grad():
        steps = [model.project[name](found["unimodal"][:, m]) for name, m in (("time_series", 0), ("note", 2))]
        _, (state, _) = model.lstm(torch.stack(steps, dim=1))
    torch.testing.assert_close(found["rep"], state[-1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("fusion_layer", "mixes"), [(0, True), (1, True), (2, False)])
def test_mt_contents_mix_from_the_fusion_layer_on(fusion_layer, mixes):
    """The T class token reads T contents only, so an image reaches it through mixed contents or not at all.

    The class token of the last layer reads the contents before it: with fusion in the last layer alone they do not mix
    in time, which is the joint token's business.
    """
    model = make_model("mt", fusion_layer=fusion_layer, layers=2 if fusion_layer != 1 else 3)
    batch = make_batch([(1, 1, 1)])
    other = changed(batch, img=batch.img + 1.0)
    before, after = details(model, batch)["class_outputs"], details(model, other)["class_outputs"]
    assert torch.equal(before[:, 1], after[:, 1]) != mixes
    assert torch.equal(before[:, 3], after[:, 3]) != mixes
    assert not torch.equal(before[:, 0], after[:, 0]) and not torch.equal(before[:, 2], after[:, 2])


def test_mt_loss_adds_the_mean_over_the_class_tokens():
    model, batch = make_model("mt"), make_batch()
    found = details(model, batch)["class_outputs"]
    head = model.heads["in_hospital_mortality"]
    with torch.no_grad():
        joint = prediction_loss(head(found[:, 0]), batch.label, "in_hospital_mortality")
        single = [
            prediction_loss(head(found[batch.present[:, m], 1 + m]), batch.label[batch.present[:, m]],
                            "in_hospital_mortality")
            for m in range(3)
        ]  # fmt: skip
        torch.testing.assert_close(model.loss(model(batch), batch), joint + sum(single) / 3)
        plain = make_model("mt", aux_weight=0.0)
        torch.testing.assert_close(plain.loss(plain(batch), batch), joint)


def test_mmf_streams_of_absent_modalities_have_no_gradient():
    model, batch = make_model("mmf").train(), make_batch([(0, 1, 0)] * 3)
    model.loss(model(batch), batch).backward()
    for key, parameter in model.named_parameters():
        if any(f".{name}." in key for name in ("time_series", "note")):
            assert parameter.grad is None or not parameter.grad.any(), key
    assert model.streams["image"][0].expand.weight.grad.any()


def test_mmf_answer_is_the_mean_over_present_streams():
    model, batch = make_model("mmf"), make_batch()
    found = details(model, batch)["stream_logits"]
    for row, pattern in enumerate(PATTERNS):
        own = torch.stack([found[row, m] for m in range(3) if pattern[m]]).mean(dim=0)
        torch.testing.assert_close(scores(model, batch)[row], own)
    first = make_model("mmf", readout="first_stream")
    for row, pattern in enumerate(PATTERNS):
        torch.testing.assert_close(scores(first, batch)[row], found[row, pattern.index(1)])


def test_mmf_streams_exchange_through_the_bottlenecks_only():
    batch = make_batch([(1, 1, 1)])
    other = changed(batch, img=batch.img + 1.0)
    for layer, exchange in ((0, True), (2, False)):
        model = make_model("mmf", fusion_layer=layer)
        before, after = details(model, batch)["unimodal"], details(model, other)["unimodal"]
        assert torch.equal(before[:, 0], after[:, 0]) != exchange
        assert not torch.equal(before[:, 1], after[:, 1])


def test_multimodn_state_passes_a_skipped_module_unchanged():
    model, batch = make_model("multimodn"), make_batch()
    states = details(model, batch)["states"]
    for m in range(3):
        absent = ~batch.present[:, m]
        assert torch.equal(states[absent, m + 1], states[absent, m])
        assert (states[~absent, m + 1] != states[~absent, m]).any(dim=1).all()


def test_multimodn_loss_is_the_mean_over_the_executed_steps():
    batch = make_batch([(1, 0, 1), (1, 0, 0)])
    model = make_model("multimodn", rho=2.0)
    states, task = details(model, batch)["states"], "in_hospital_mortality"
    with torch.no_grad():
        steps = [
            prediction_loss(model.decode(states[:, 0], task), batch.label, task),
            prediction_loss(model.decode(states[:, 1], task), batch.label, task),
            prediction_loss(model.decode(states[:1, 3], task), batch.label[:1], task),
        ]
        change = [(states[:, 1] - states[:, 0]).square().mean(), (states[:1, 3] - states[:1, 2]).square().mean()]
        expected = sum(steps) / 3 + 0.01 * 2.0 * sum(change) / 2
        torch.testing.assert_close(model.loss(model(batch), batch), expected)


def test_multimodn_shuffles_its_modules_in_training_only():
    model, batch = make_model("multimodn", shuffle_order=True), make_batch()
    assert details(model, batch)["order"].tolist() == [0, 1, 2]
    model.train()
    assert len({tuple(details(model, batch)["order"].tolist()) for _ in range(30)}) > 3


def test_m3care_without_neighbours_completes_with_a_constant():
    """theta = +50 is a threshold of 1, which no similarity passes: selu(b2) for everyone."""
    model, batch = make_model("m3care"), make_batch()
    with torch.no_grad():
        model.threshold.fill_(50.0)
    found = details(model, batch)
    assert found["similarity"].max() <= 1 and not found["adjacency"].any()
    for m, part in enumerate(model.completion.values()):
        expected = torch.nn.functional.selu(part.second_bias).expand(7, -1)
        assert_equal_up_to_rounding(found["completed"][:, m], expected)


def test_m3care_similarity_equals_a_loop():
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distance = [[float((x[i] - x[j]) @ (x[i] - x[j])) for j in range(5)] for i in range(5)]
    bandwidth = sum(map(sum, distance)) / 20
    expected = [
        [sum(math.exp(-distance[i][j] / (s * bandwidth)) for s in (0.5, 1, 2)) / 3 for j in range(5)] for i in range(5)
    ]
    torch.testing.assert_close(gaussian(x), torch.tensor(expected, dtype=torch.float64))
    assert gaussian(x[:1]).tolist() == [[1.0]]
    assert gaussian(x[:1].expand(3, -1)).eq(1).all()


def test_m3care_neighbours_lend_only_what_they_have():
    model, batch = make_model("m3care"), make_batch()
    with torch.no_grad():
        model.threshold.fill_(-50.0)  # everyone is a neighbour
        adjacency, unimodal = torch.rand(7, 7), torch.randn(7, 3, 16)
        completed, summary = model.complete(adjacency, unimodal, batch.present)
        other = torch.where(batch.present.unsqueeze(-1), unimodal, unimodal + 5.0)
        again, _ = model.complete(adjacency, other, batch.present)
    torch.testing.assert_close(again, completed, rtol=0, atol=0)
    absent = ~batch.present
    assert torch.equal(summary[absent], completed[absent]) and not torch.equal(summary, completed)


def test_m3care_row_mask_gives_absent_samples_a_constant():
    model = make_model("m3care", row_mask=True)
    with torch.no_grad():
        completed, _ = model.complete(torch.rand(7, 7), torch.randn(7, 3, 16), make_batch().present)
    absent = completed[~make_batch().present[:, 1], 1]
    assert_equal_up_to_rounding(absent, absent[:1].expand_as(absent))


@pytest.mark.parametrize("name", ["medfuse", "mt", "m3care", "mmf", "multimodn"])
@pytest.mark.parametrize("m", range(3))
def test_every_present_modality_reaches_the_answer(name, m):
    model, batch = make_model(name), make_batch([(1, 1, 1)] * 2)
    field = MODALITY_FIELDS[m]
    other = changed(batch, **{field: getattr(batch, field) + 1.0})
    assert (scores(model, batch) - scores(model, other)).abs().min() > 1e-6


def test_only_m3care_clips_gradients():
    from flexcare_model.models import MODELS

    assert {name for name, model in MODELS.items() if model.gradient_clip} == {"m3care"}
    assert {name for name, model in MODELS.items() if not model.multi_task} >= {
        "medfuse", "mt", "m3care", "mmf", "multimodn"
    }  # fmt: skip
