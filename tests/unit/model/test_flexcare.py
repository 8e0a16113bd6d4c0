"""FlexCare: parameter counts, equality with the loop reference, and the properties of its mask, experts and fusion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.flexcare_reference import Reference, balance
from support.invented_batches import (
    FLEXCARE,
    OUTPUTS,
    PATTERNS,
    SMALL,
    assert_equal_up_to_rounding,
    changed,
    details,
    make_batch,
    make_model,
    scores,
)

from flexcare_data.modalities import COMBINATIONS
from flexcare_data.options import PAPER_TASKS
from flexcare_data.tasks import TASKS
from flexcare_model.models import MODELS, ModelConfig
from flexcare_model.models.flexcare import Experts, Fusion

SIX = {name: TASKS[name].n_outputs for name in PAPER_TASKS[:-1]}
FULL_K = [name for name in FLEXCARE if len(MODELS[name].combinations) == 7]


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts():
    model = MODELS["flexcare"](ModelConfig(), SIX)
    assert count(model) == 1_538_356
    assert count(model.encoder[0]) == 198_272
    assert count(model.encoder) == 793_088
    assert count(model.experts) == 334_080
    assert [count(getattr(model.embedding, name)) for name in ("time_series", "image", "note")] == [
        9_856,
        98_432,
        98_432,
    ]
    assert [count(part) for part in (model.fusion.project, model.fusion.score, model.fusion.norm)] == [32_768, 128, 256]
    sizes = {"in_hospital_mortality": 257, "phenotyping": 6_425, "length_of_stay": 2_570, "diagnosis": 3_598}
    assert {name: count(model.heads[name]) for name in sizes} == sizes


def test_a_drg_head_adds_what_the_specification_says():
    both = count(MODELS["flexcare"](ModelConfig(), SIX | {"drg": 769}))
    assert both - 1_538_356 == 197_633


def test_layers_start_from_different_weights():
    model = MODELS["flexcare"](SMALL, SIX)
    assert not torch.equal(model.encoder[0].expand.weight, model.encoder[1].expand.weight)


def test_starting_values():
    model = MODELS["flexcare"](SMALL, SIX)
    zero = [name for name, parameter in model.named_parameters() if not parameter.any()]
    assert {"combination_tokens", "embedding.class_tokens", "experts.router", "experts.task_router",
            "experts.noise_router", "embedding.time_series_position"} <= set(zero)  # fmt: skip
    assert 0.5 < float(model.task_tokens.detach().std()) < 1.5


@pytest.mark.parametrize("mask", ["strict", "released"])
def test_equals_the_loop_version_of_the_equations(mask):
    """All seven patterns of availability, each with another task."""
    options = {"hidden_dim": 4, "attention_mask": mask}
    model = make_model("flexcare", **options).double()
    reference = Reference(model.state_dict(), heads=2, layers=2, k=2, mask=mask)
    for number, (pattern, task) in enumerate(zip(PATTERNS, PAPER_TASKS, strict=True)):
        if mask == "released" and pattern[1] and number:
            continue  # one image will do: its 196 tokens are most of the time
        batch = make_batch([pattern], task=task, hours=3, tokens=4, seed=number, dtype=torch.float64)
        with torch.no_grad():
            output = model(batch, details=True)
        expected = reference.sample(batch, 0, task)
        for name, value in expected.items():
            got = output.logits if name == "logits" else output.details[name]
            torch.testing.assert_close(got[0], value, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(float(output.extra_losses["balance"]), balance(expected["gates"]), rtol=0, atol=1e-9)
        torch.testing.assert_close(
            float(output.extra_losses["decorrelation"]), float(expected["decorrelation"]), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("patterns", [PATTERNS * 2, [(1, 0, 1), (1, 0, 0)], [(0, 1, 0)], [(0, 0, 1)], [(1, 0, 0)]])
@pytest.mark.parametrize("name", FLEXCARE)
def test_block_form_equals_dense_form(name, patterns):
    batch = make_batch(patterns, hours=40, tokens=30)
    blocks = make_model(name)
    dense = make_model(name, encoder="dense")
    dense.load_state_dict(blocks.state_dict())
    expected = dense(batch, details=True)
    got = blocks(batch, details=True)
    torch.testing.assert_close(got.logits, expected.logits, rtol=0, atol=1e-5)
    assert got.details.keys() == expected.details.keys()
    for key, value in expected.details.items():
        torch.testing.assert_close(
            got.details[key], value, rtol=0, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )
    for key, value in expected.extra_losses.items():
        torch.testing.assert_close(got.extra_losses[key], value, rtol=0, atol=1e-5)


def test_block_form_has_the_gradients_of_the_dense_form():
    batch = make_batch(PATTERNS * 2, hours=20, tokens=30)
    gradients = []
    for encoder in ("blocks", "dense"):
        model = make_model("flexcare", encoder=encoder)
        model.loss(model(batch), batch).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradient, gradients[1][name], rtol=1e-4, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}"
        )


@pytest.mark.parametrize("encoder", ["blocks", "dense"])
def test_no_content_reads_the_task_token(encoder):
    model = make_model("flexcare", encoder=encoder)
    one, two = make_batch(task="in_hospital_mortality"), make_batch(task="decompensation")
    one, two = details(model, one), details(model, two)
    assert torch.equal(one["combo_repr"], two["combo_repr"])
    assert torch.equal(one["decorrelation"], two["decorrelation"])
    assert not torch.allclose(one["task_repr"], two["task_repr"])


def test_the_released_mask_lets_combinations_read_the_task_token():
    model = make_model("flexcare", attention_mask="released")
    one, two = make_batch(task="in_hospital_mortality"), make_batch(task="decompensation")
    assert (details(model, one)["combo_repr"] - details(model, two)["combo_repr"]).abs().max() > 1e-3


@pytest.mark.parametrize("modality", ["T", "I", "N"])
@pytest.mark.parametrize("encoder", ["blocks", "dense"])
def test_a_combination_sees_its_modalities_only(encoder, modality):
    model = make_model("flexcare", encoder=encoder)
    batch = make_batch([(1, 1, 1), (1, 1, 1)])
    field = {"T": "ts", "I": "img", "N": "note_tok"}[modality]
    other = changed(batch, **{field: getattr(batch, field) + 1.0})
    before, after = details(model, batch)["combo_repr"], details(model, other)["combo_repr"]
    for c, name in enumerate(COMBINATIONS):
        assert torch.equal(before[:, c], after[:, c]) == (modality not in name), name


def test_order_of_the_combination_tokens_is_of_no_account(monkeypatch):
    """Reordered dedicated tokens (and their mask) give reordered outputs, the same task token and scores."""
    batch = make_batch()
    model = make_model("flexcare")
    order = [2, 0, 3, 1]
    monkeypatch.setattr(MODELS["flexcare"], "combinations", tuple(COMBINATIONS[c] for c in [*order, 4, 5, 6]))
    permuted = make_model("flexcare")
    state = model.state_dict()
    permuted.load_state_dict(state | {"combination_tokens": state["combination_tokens"][order]})
    one, two = details(model, batch), details(permuted, batch)
    assert_equal_up_to_rounding(two["combo_repr"], one["combo_repr"][:, [*order, 4, 5, 6]])
    torch.testing.assert_close(two["rep"], one["rep"], rtol=0, atol=1e-5)


def test_available_combinations_only():
    model = make_model("flexcare")
    found = details(model, make_batch())
    weights, available = found["fusion_weights"], found["available"]
    assert available.sum(dim=1).tolist() == [7, 3, 3, 3, 1, 1, 1]
    assert torch.equal(weights > 0, available)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(7))
    for row, single in ((4, 4), (5, 5), (6, 6)):
        assert weights[row, single] == 1.0
        pooled = model.fusion.norm(found["expert_output"][row, single]).detach()
        torch.testing.assert_close(found["rep"][row, 16:], pooled, rtol=0, atol=1e-5)
    assert (found["gates"] > 0).sum(dim=-1)[available].eq(2).all()
    assert found["gates"][~available].eq(0).all() and found["expert_index"][~available].eq(-1).all()
    assert found["expert_output"][~available].eq(0).all()


def test_fusion_weights_of_the_worked_example():
    torch.testing.assert_close(
        (torch.tensor([0.1, 0.2, 0.3]) / 0.2).softmax(0),
        torch.tensor([0.186324, 0.307196, 0.506480]),
        rtol=0,
        atol=1e-6,
    )
    fusion = Fusion(3, temperature=0.2, with_task=False)
    with torch.no_grad():  # s_c = tanh(x_c), so that scores are 0.1, 0.2, 0.3
        fusion.project.weight.copy_(torch.eye(3))
        fusion.score.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
    rows = torch.zeros(1, 4, 3)
    rows[0, :3, 0] = torch.atanh(torch.tensor([0.1, 0.2, 0.3]))
    _, weights = fusion(rows, None, torch.tensor([[True, True, True, False]]))
    torch.testing.assert_close(weights[0], torch.tensor([0.186324, 0.307196, 0.506480, 0.0]), rtol=0, atol=1e-6)


@pytest.fixture
def worked_experts() -> tuple[Experts, torch.Tensor, torch.Tensor]:
    experts = Experts(4, experts=4, k=2)
    with torch.no_grad():
        experts.router.copy_(torch.eye(4))
        experts.task_router.copy_(torch.eye(4))
    x = torch.tensor([[1, 0, 2, -1], [0, 0.5, 0, 1.5]])
    return experts, x, torch.tensor([[0, 0.8, 0, 0.5], [0.2, 0, 0, 0]])


def test_gating_of_the_worked_example_in_eval(worked_experts):
    experts, x, q = worked_experts
    _, gates, chosen, variation = experts.eval()(x, q)
    expected = torch.tensor([[0.268941, 0, 0.731059, 0], [0, 0.268941, 0, 0.731059]])
    torch.testing.assert_close(gates, expected, rtol=0, atol=1e-6)
    assert chosen.tolist() == [[2, 0], [3, 1]]
    assert 0.01 * float(variation.detach()) == pytest.approx(0.00284736, abs=1e-6)


def test_gating_of_the_worked_example_in_training(worked_experts):
    experts, x, q = worked_experts
    noise = torch.tensor([[0.5, -0.5, 0, 1], [1, 0, -1, 0]])
    _, gates, _, variation = experts.train()(x, q, noise)
    expected = torch.tensor([[0.343344, 0, 0.656656, 0], [0.355064, 0, 0, 0.644936]])
    torch.testing.assert_close(gates, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(gates.sum(0), torch.tensor([0.698408, 0, 0.656656, 0.644936]), rtol=0, atol=1e-6)
    assert 0.01 * float(variation.detach()) == pytest.approx(0.00544891, abs=1e-6)


def test_all_experts_chosen_is_the_dense_mixture():
    torch.manual_seed(0)
    experts = Experts(6, experts=3, k=3).eval()
    torch.nn.init.normal_(experts.router)
    x, q = torch.randn(8, 6), torch.randn(8, 6)
    refined, gates, _, _ = experts(x, q)
    weights = (x @ experts.router).softmax(dim=-1)
    hidden = torch.relu(torch.einsum("vd,edf->vef", x, experts.expand) + experts.expand_bias)
    outputs = torch.einsum("vef,efd->ved", hidden, experts.contract) + experts.contract_bias
    torch.testing.assert_close(refined, (weights.unsqueeze(-1) * outputs).sum(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(gates, weights, rtol=0, atol=1e-6)


def test_shuffled_pairs_give_shuffled_outputs():
    torch.manual_seed(0)
    experts = Experts(6, experts=5, k=2).eval()
    torch.nn.init.normal_(experts.router)
    x, order = torch.randn(12, 6), torch.randperm(12)
    refined, gates, chosen, variation = experts(x, x)
    other = experts(x[order], x[order])
    for one, two in zip((refined[order], gates[order], chosen[order], variation), other, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_an_expert_without_rows_does_not_break_training():
    torch.manual_seed(0)
    experts = Experts(6, experts=9, k=2).train()
    with torch.no_grad():
        experts.router[:, 2:] = -50.0
    refined, gates, _, variation = experts(torch.rand(4, 6), torch.rand(4, 6), torch.zeros(4, 9))
    (refined.sum() + variation).backward()
    assert gates[:, 2:].eq(0).all()
    assert all(parameter.grad.isfinite().all() for parameter in experts.parameters())
    assert experts.expand.grad[2:].eq(0).all() and experts.expand.grad[:2].any()


def test_task_weight_multiplies_everything_in_a_multi_task_run_only():
    batch = make_batch(task="phenotyping")
    for task, weight in (("phenotyping", 1.0), ("in_hospital_mortality", 0.2), ("length_of_stay", 0.5)):
        batch = make_batch(task=task)
        model = make_model("flexcare")
        single = make_model("flexcare", task=task)
        shared = {k: v for k, v in model.state_dict().items() if not k.startswith("heads") or task in k}
        single.load_state_dict(shared)
        torch.testing.assert_close(model.loss(model(batch), batch), weight * single.loss(single(batch), batch))


def test_loss_of_the_variants():
    """Which terms of equation (13) enter: the loss moves with the weight of a term or does not."""
    batch = make_batch(task="phenotyping")
    moves = {}
    for name in FLEXCARE:
        base, decorr, moe = (
            make_model(name, **options) for options in ({}, {"decorr_weight": 9.0}, {"moe_weight": 9.0})
        )
        losses = [float(model.loss(model(batch), batch).detach()) for model in (base, decorr, moe)]
        moves[name] = (losses[0] != losses[1], losses[0] != losses[2])
    assert moves == {
        "flexcare": (True, True),
        "flexcare_base": (False, False),
        "flexcare_no_ct": (False, True),
        "flexcare_no_decorr": (False, True),
        "flexcare_no_moe": (True, False),
        "flexcare_no_task_token": (True, True),
    }


def test_variants_have_the_parts_that_they_keep():
    models = {name: MODELS[name](ModelConfig(), SIX) for name in FLEXCARE}
    shapes = {name: model.heads["diagnosis"].in_features for name, model in models.items()}
    assert shapes == dict.fromkeys(FLEXCARE, 256) | {"flexcare_no_task_token": 128}
    full = 1_538_356
    assert count(models["flexcare_no_decorr"]) == full
    assert count(models["flexcare_no_ct"]) == full - 4 * 128
    assert count(models["flexcare_no_moe"]) == full - 334_080 + 2 * (128 * 128 + 128)
    assert count(models["flexcare_base"]) == full - 4 * 128 - 334_080 + 2 * (128 * 128 + 128)
    gone = 7 * 128 + 1280 + 128 * 128 + 128 * (1 + 1 + 25 + 10 + 1 + 14)
    assert count(models["flexcare_no_task_token"]) == full - gone


def test_shared_task_token_is_one_row_for_all_tasks():
    model = make_model("flexcare", task_token="shared")
    assert model.task_tokens.shape == (1, 16)
    one, two = make_batch(task="in_hospital_mortality"), make_batch(task="drg")
    assert torch.equal(details(model, one)["task_repr"], details(model, two)["task_repr"])


@pytest.mark.parametrize("name", FULL_K)
def test_covariance_options(name):
    batch = make_batch()
    code, mean = make_model(name), make_model(name, covariance_normaliser="mean_offdiag")
    torch.testing.assert_close(details(code, batch)["decorrelation"] * 36 / 42, details(mean, batch)["decorrelation"])
    only = details(make_model(name, decorr_present_only=True), batch)["decorrelation"]
    torch.testing.assert_close(only[0], details(code, batch)["decorrelation"][0])
    assert only[4:].eq(0).all() and (only[1:4] > 0).all()


def test_note_dropout_acts_in_training_only():
    batch = make_batch([(0, 0, 1)] * 3)
    plain, noisy = make_model("flexcare", dropout=0.0), make_model("flexcare", dropout=0.0, note_dropout=0.5)
    assert torch.equal(scores(plain, batch), scores(noisy, batch))
    assert not torch.allclose(details(plain.train(), batch)["combo_repr"], details(noisy.train(), batch)["combo_repr"])


@pytest.mark.parametrize("option", [{"heads": 3}, {"experts_per_token": 9}])
def test_settings_that_cannot_be(option):
    with pytest.raises(ValueError, match=r"^model: "):
        replace(SMALL, **option)


def test_a_batch_of_another_task_is_refused():
    model = make_model("flexcare", task="phenotyping")
    with pytest.raises(ValueError, match="expected a batch of phenotyping, got drg"):
        model(make_batch(task="drg"))
    with pytest.raises(ValueError, match="expected tasks of"):
        MODELS["flexcare"](SMALL, {"weather": 2})
    assert set(OUTPUTS) == set(TASKS)
