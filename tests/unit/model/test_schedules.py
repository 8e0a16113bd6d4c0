"""Optimiser, schedules, early stopping and idle gradients, each against a recount; resumed runs end the same."""

from __future__ import annotations

import json
import math

import polars as pl
import pytest
import torch
from support.fabricated_samples import write_output
from torch import nn

from flexcare_model.training import loop
from flexcare_model.training.loop import cosine
from flexcare_model.training.run_config import RunConfig, RunConfigError, parse_run, resolve_run
from flexcare_model.training.train import make_optimizer, train

TASKS = ["in_hospital_mortality", "phenotyping"]
SMALL = {
    "tasks": TASKS, "hidden_dim": 8, "layers": 1, "epochs": 3, "baseline_epochs": 3, "batch_size": 16, "max_hours": 12,
    "threads": 1, "device": "cpu", "lr": 1e-2, "baseline_lr": 1e-2,
}  # fmt: skip


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return write_output(tmp_path_factory.mktemp("output"), tokens=(1, 5))


def run_of(model="flexcare", experiment="six_tasks", **settings):
    return resolve_run(model, experiment, 40, SMALL | settings)


@pytest.fixture
def steps(monkeypatch):
    """Learning rate of each step of the optimiser."""
    found = []
    original = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam,
        "step",
        lambda self, *a, **k: found.append(self.param_groups[0]["lr"]) or original(self, *a, **k),
    )
    return found


class Killed(BaseException):
    """Raised in place of the signal that ends the process."""


# --- schedules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "warmup"), [(40, 10), (7, 1), (30, 0)])
def test_cosine_is_the_schedule_of_torch(steps, warmup):
    """A line to 1, then `CosineAnnealingLR`."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - warmup)
    expected = [(step + 1) / warmup for step in range(warmup)]
    for _ in range(steps - warmup):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        fall.step()
    assert [cosine(step, steps, warmup) for step in range(steps)] == pytest.approx(expected)


@pytest.mark.parametrize(("model", "experiment"), [("flexcare", "six_tasks"), ("mt", "phenotyping")])
def test_a_run_follows_the_cosine_over_all_its_batches(output, tmp_path, steps, model, experiment):
    """Of several tasks all batches count, in the order of training."""
    run, execution = run_of(model, experiment, schedule="cosine", warmup=1.5)
    train(output, tmp_path, run, execution)
    each, rest = divmod(len(steps), run.epochs)
    assert rest == 0 and each > 1
    warm, total = 1.5 * each, run.epochs * each
    expected = [
        1e-2 * (min(1, (s + 1) / warm) if s < warm else (1 + math.cos(math.pi * (s - warm) / (total - warm))) / 2)
        for s in range(total)
    ]
    assert steps == pytest.approx(expected)
    history = pl.read_parquet(tmp_path / "history.parquet").filter(pl.col("phase") == "train")
    counts = [len(loop.shuffled(len(loop_data), run.batch_size, 0)) for loop_data in _sizes(output, run)]
    ends = [number * each + sum(counts[: place + 1]) - 1 for number in range(3) for place in range(len(counts))]
    assert history["lr"].to_list() == pytest.approx([expected[end] for end in ends])


def _sizes(output, run):
    from flexcare_model.data.dataset import load_task

    return [load_task(output, task, "train", max_hours=run.max_hours) for task in run.tasks]


@pytest.mark.parametrize(
    ("model", "experiment", "schedule", "halves"),
    [
        ("flexcare", "six_tasks", "released", True),
        ("flexcare", "six_tasks", "constant", False),
        ("flexcare", "phenotyping", "released", False),
        ("mt", "phenotyping", "released", False),
        ("mt", "phenotyping", "halving", True),
    ],
)
def test_halving_applies_where_the_schedule_says(output, tmp_path, monkeypatch, model, experiment, schedule, halves):
    def rising(losses):
        return lambda self, data: loop.Scores(data.task, [], data.labels.numpy()[:0], None, float(next(losses)))

    monkeypatch.setattr(loop.Loop, "score", rising(iter(range(100))))
    run, execution = run_of(model, experiment, schedule=schedule)
    _, state = train(output, tmp_path, run, execution)
    # The first epoch has nothing to compare with.
    assert set(state.rates.values()) == {1e-2 / 4 if halves else 1e-2}


# --- early stopping ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patience", "last"), [(0, 6), (1, 3), (2, 6)], ids=["off", "at once", "a better one comes in time"]
)
def test_training_stops_after_epochs_without_a_better_score(output, tmp_path, monkeypatch, patience, last):
    scores = iter([0.5, 0.6, 0.6, 0.7, 0.1, 0.2])
    monkeypatch.setattr(
        loop.Scores, "metrics", property(lambda self: dict.fromkeys(self.task.metrics, next(scores) / 2))
    )
    run, execution = run_of("mt", "phenotyping", baseline_epochs=6, patience=patience)
    _, state = train(output, tmp_path, run, execution)
    trained = pl.read_parquet(tmp_path / "history.parquet")["epoch"].max()
    assert trained == last and state.best_epoch == (4 if last == 6 else 2)


def test_a_run_that_stopped_is_not_continued(output, tmp_path, monkeypatch):
    """Killed after its last epoch, it has the same end when it is started again."""
    monkeypatch.setattr(loop.Scores, "metrics", property(lambda self: dict.fromkeys(self.task.metrics, 0.5)))
    given = run_of("mt", "phenotyping", baseline_epochs=9, patience=2)
    _, state = train(output, tmp_path, *given)
    assert state.epoch - 1 == 3
    (tmp_path / "history.parquet").unlink()
    monkeypatch.setattr(loop.Loop, "train_task", lambda *_: pytest.fail("trained again"))
    _, again = train(output, tmp_path, *given)
    assert again.epoch == state.epoch and pl.read_parquet(tmp_path / "history.parquet")["epoch"].max() == 3


@pytest.mark.parametrize("step", [2, 4, 7])
def test_a_killed_run_ends_as_if_nothing_had_happened(output, tmp_path, monkeypatch, step):
    """With a schedule by step, patience, decay, and gradients of zero, which are no part of the state."""
    settings = {
        "schedule": "cosine", "patience": 2, "weight_decay": 1e-2, "optimizer": "adamw", "idle_gradients": "zero"
    }  # fmt: skip
    train(output, tmp_path / "whole", *run_of(**settings))
    done, original = 0, torch.optim.Adam.step

    def dying(self, *args, **kwargs):
        nonlocal done
        done += 1
        if done == step:
            raise Killed
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", dying)
        with pytest.raises(Killed):
            train(output, tmp_path / "killed", *run_of(**settings), save_seconds=0.0)
    train(output, tmp_path / "killed", *run_of(**settings))
    for name in ("config.json", "history.parquet", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


# --- optimiser --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_weight_decay_by_hand(kind):
    """Three steps of the equations: Adam adds the decay to the gradient, AdamW shrinks the weight."""
    run = RunConfig("mt", "drg", 1, ("drg",), 1, lr=0.1, weight_decay=0.3, optimizer=kind)
    model = nn.Linear(1, 1, bias=False)
    optimizer = make_optimizer(model, run)
    weight = model.weight.item()
    mean = square = 0.0
    for step, gradient in enumerate((0.5, -2.0, 0.25), 1):
        model.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        if kind == "adamw":
            weight -= 0.1 * 0.3 * weight
        else:
            gradient += 0.3 * weight
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        weight -= 0.1 * (mean / (1 - 0.9**step)) / (math.sqrt(square / (1 - 0.999**step)) + 1e-8)
        assert model.weight.item() == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("idle", ["none", "zero"])
def test_idle_heads_move_only_with_gradients_of_zero(output, tmp_path, monkeypatch, idle):
    """The head of each task through all steps, by Adam's equations in float64 (discrepancy D21).

    ``zero``: from its first batch on, a head takes part in every step, with a gradient of 0 where it is idle. Before
    that it does not move, because PyTorch 1.10 had no gradient either.
    """
    seen = {task: [] for task in TASKS}
    original = torch.optim.Adam.step

    def recording(self, *args, **kwargs):
        parameters = dict(current["model"].named_parameters())
        for task in TASKS:
            bias = parameters[f"heads.{task}.bias"]
            gradient = None if bias.grad is None else bias.grad.double().clone()
            seen[task].append([self.param_groups[0]["lr"], gradient, bias.detach().double().clone()])
        original(self, *args, **kwargs)
        for task in TASKS:
            seen[task][-1].append(parameters[f"heads.{task}.bias"].detach().double().clone())

    current, start = {}, loop.Loop.run_epochs
    monkeypatch.setattr(loop.Loop, "run_epochs", lambda self: current.update(model=self.model) or start(self))
    monkeypatch.setattr(torch.optim.Adam, "step", recording)
    train(output, tmp_path, *run_of(models={"flexcare": {"idle_gradients": idle}}))
    moved_idle = 0
    for task in TASKS:
        mean = square = torch.zeros(1, dtype=torch.float64)
        steps, begun = 0, False
        for rate, gradient, before, after in seen[task]:
            is_idle = gradient is None or not gradient.any()
            begun = begun or not is_idle
            if is_idle and (idle == "none" or not begun):
                assert torch.equal(before, after)
                continue
            given = torch.zeros_like(before) if is_idle else gradient
            steps += 1
            mean, square = 0.9 * mean + 0.1 * given, 0.999 * square + 0.001 * given**2
            size = (mean / (1 - 0.9**steps)) / ((square / (1 - 0.999**steps)).sqrt() + 1e-8)
            torch.testing.assert_close(after, before - rate * size, rtol=1e-5, atol=1e-6)
            moved_idle += is_idle
    assert (moved_idle > 0) == (idle == "zero")


# --- configuration ----------------------------------------------------------------------------------------------


def test_settings_of_a_model_are_recorded_and_come_back(output, tmp_path):
    own = {"lr": 0.5, "epochs": 1, "patience": 4, "schedule": "cosine", "warmup": 0.5, "answer": "present"}
    run, execution = run_of("mt", "phenotyping", models={"mt": own, "mmf": {"lr": 0.7}})
    train(output, tmp_path, run, execution)
    text = (tmp_path / "config.json").read_text()
    written = json.loads(text)
    assert {name: written[name] for name in own if name != "answer"} == {n: v for n, v in own.items() if n != "answer"}
    assert written["settings"]["own"] == {"answer": "present", "aux_weight": 1.0, "fusion_layer": 0}
    assert parse_run(text)[0] == run


def test_of_a_released_run_config_json_says_what_is_released():
    run, _ = resolve_run("flexcare_released", "six_tasks", 40, {"note_dropout": 0.3, "attention_mask": "strict"})
    assert (run.settings.attention_mask, run.settings.note_dropout, run.idle_gradients) == ("released", 0.1, "zero")
    assert run.settings.own == {"copied_layers": True}
    plain, _ = resolve_run("flexcare", "six_tasks", 40, {"note_dropout": 0.3})
    assert (plain.settings.attention_mask, plain.settings.note_dropout, plain.idle_gradients) == ("strict", 0.3, "none")


@pytest.mark.parametrize(
    "settings", [{"mt": {"fusion": 1}}, {"mt": {"lr": 0}}, {"mtt": {}}, {"mmf": {"series": "days"}}]
)
def test_unknown_settings_of_a_model_are_refused(settings):
    (model, own), *_ = settings.items()
    name = f"train.models.{'.'.join([model, *own])}"
    with pytest.raises(RunConfigError, match=name):
        resolve_run("mt", "drg", 40, {"models": settings})


def test_the_number_of_epochs_of_a_model_counts_in_all_its_runs():
    for experiment, epochs in (("readmission", 25), ("drg", 40)):
        assert resolve_run("flexcare", experiment, 40, {})[0].epochs == epochs
        assert resolve_run("flexcare", experiment, 40, {"models": {"flexcare": {"epochs": 7}}})[0].epochs == 7
