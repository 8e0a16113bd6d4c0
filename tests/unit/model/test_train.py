"""Training: the procedure of the paper, resumed runs equal to uninterrupted ones, errors that say what to do."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from support.fabricated_samples import write_output
from support.paths import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flexcare_data.store.folders import write_stage
from flexcare_data.tasks import TASKS
from flexcare_model.data.dataset import load_task, to_device
from flexcare_model.data.loader import BatchLoader, in_order, shuffled
from flexcare_model.models import MODELS
from flexcare_model.training import loop
from flexcare_model.training import train as training
from flexcare_model.training.checkpoint import STATE, CheckpointError, TrainState, forget_state, load_model
from flexcare_model.training.loop import TrainError, adapt_rates, seed_everything
from flexcare_model.training.run_config import EXPERIMENTS, RunConfigError, resolve_run
from flexcare_model.training.train import NoSamplesError, train
from flexcare_model.training.train_and_evaluate import run

SMALL = {
    "tasks": ["in_hospital_mortality", "phenotyping", "diagnosis"],
    "hidden_dim": 8, "layers": 1, "epochs": 3, "baseline_epochs": 2, "batch_size": 16, "max_hours": 12, "threads": 1,
    "device": "cpu", "lr": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return write_output(tmp_path_factory.mktemp("output"), tokens=(1, 5))


def run_of(model="flexcare", experiment="six_tasks", seed=40, **settings):
    return resolve_run(model, experiment, seed, SMALL | settings)


@pytest.fixture(scope="module")
def finished(output):
    """A run that nothing disturbed."""
    folder = output / "runs" / "flexcare" / "six_tasks" / "seed40"
    _, state = train(output, folder, *run_of())
    return folder, state


class Killed(BaseException):
    """Raised in place of the signal that ends the process."""


def assert_same_end(one: Path, two: Path):
    left, right = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    for name in ("config.json", "history.parquet", "model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_history_has_every_task_of_every_epoch(finished):
    folder, state = finished
    history = pl.read_parquet(folder / "history.parquet")
    for epoch in (1, 2, 3):
        part = history.filter(pl.col("epoch") == epoch)
        assert part["phase"].to_list() == ["train"] * 3 + ["val"] * 3
        assert part["task"].to_list() == SMALL["tasks"] * 2
    assert history["loss"].is_finite().all()
    val = history.filter(pl.col("phase") == "val")
    sums = val.group_by("epoch").agg(
        pl.sum_horizontal(pl.col("auroc", "auprc", "macro_auroc", "micro_auroc").sum()).alias("score")
    )
    best = sums.sort("score", "epoch", descending=[True, False])["epoch"][0]
    assert state.best_epoch == best


def test_a_metric_that_is_not_defined_does_not_choose_the_weights(tmp_path):
    """No readmission in val: its metrics are null in the history. Alone it gives the last weights, not the first."""
    folder = write_output(tmp_path / "output")
    path = folder / "cohorts/readmission.parquet"
    nobody = pl.when(pl.col("split") == "val").then(0).otherwise("label").cast(pl.Int64)
    pl.read_parquet(path).with_columns(label=nobody).write_parquet(path)
    for tasks in (["readmission"], ["readmission", "decompensation"]):
        run, execution = run_of(tasks=tasks)
        out = tmp_path / "-".join(tasks)
        _, state = train(folder, out, run, execution)
        val = pl.read_parquet(out / "history.parquet").filter(pl.col("phase") == "val")
        assert val.filter(task="readmission")["auroc"].null_count() == run.epochs
        if len(tasks) == 1:
            assert state.best_epoch == run.epochs
        else:
            known = val.filter(task="decompensation").with_columns(score=pl.col("auroc") + pl.col("auprc"))
            best = known.sort("score", "epoch", descending=[True, False])["epoch"][0]
            assert state.best_epoch == best


def test_validation_loss_is_the_sum_over_batches(output, finished):
    """Recounted batch by batch from the kept weights."""
    folder, state = finished
    model, run = load_model(folder)
    history = pl.read_parquet(folder / "history.parquet").filter(
        (pl.col("epoch") == state.best_epoch) & (pl.col("phase") == "val")
    )
    for task in run.tasks:
        data = load_task(output, task, "val", max_hours=run.max_hours)
        total = 0.0
        with torch.no_grad():
            for rows in in_order(len(data), run.batch_size):
                batch = data.batch(rows)
                logits = model(batch).logits
                kept = batch.label.reshape(logits.shape) > -1
                labels = batch.label.reshape(logits.shape)[kept]
                total += float(torch.nn.functional.binary_cross_entropy_with_logits(logits[kept], labels))
        assert total == pytest.approx(history.filter(pl.col("task") == task)["loss"].item(), rel=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(output, finished, tmp_path):
    train(output, tmp_path / "same", *run_of())
    assert_same_end(finished[0], tmp_path / "same")
    train(output, tmp_path / "other", *run_of(seed=42, epochs=1))
    one, two = (load_file(folder / "model.safetensors") for folder in (finished[0], tmp_path / "other"))
    assert any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("step", [1, 4, 6, 11])
def test_a_killed_run_ends_as_if_nothing_had_happened(output, finished, tmp_path, monkeypatch, step):
    """Killed in the ``step``-th optimiser step: in a first batch, between tasks, in later epochs."""
    done = 0
    original = torch.optim.Adam.step

    def dying(self, *args, **kwargs):
        nonlocal done
        done += 1
        if done == step:
            raise Killed
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", dying)
        with pytest.raises(Killed):
            train(output, tmp_path, *run_of(), save_seconds=0.0)
    torch.rand(7)  # what happened in between must not matter
    train(output, tmp_path, *run_of())
    assert_same_end(finished[0], tmp_path)


def test_a_run_killed_twice_with_batch_norm(output, tmp_path, monkeypatch):
    """M3Care keeps running statistics; they are part of the state."""
    train(output, tmp_path / "whole", *run_of("m3care", "phenotyping"))
    original = loop.Loop.save

    def save_and_die(self):
        original(self)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "save", save_and_die)
        for _ in range(2):  # after the first epoch, and after the second, which is the last
            with pytest.raises(Killed):
                train(output, tmp_path / "killed", *run_of("m3care", "phenotyping"))
    train(output, tmp_path / "killed", *run_of("m3care", "phenotyping"))
    assert_same_end(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_a_process_killed_by_the_system_goes_on(output, finished, tmp_path):
    arguments = ["--output", str(output), "--model", "flexcare", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "flexcare_model", "train", "--settings", json.dumps(SMALL), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / STATE).exists():
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert_same_end(finished[0], tmp_path)
    assert (tmp_path / "metrics.json").exists()
    assert not (tmp_path / STATE).exists()


def test_a_run_killed_while_it_is_scored_is_not_trained_again(output, finished, tmp_path, monkeypatch):
    """Snakemake removes the outputs of a killed job, weights among them; the state must outlive them."""
    train(output, tmp_path, *run_of())
    for name in ("model.safetensors", "config.json", "history.parquet"):
        (tmp_path / name).unlink()
    monkeypatch.setattr(loop.Loop, "train_task", lambda *_: pytest.fail("trained again"))
    train(output, tmp_path, *run_of())
    assert_same_end(finished[0], tmp_path)


@pytest.mark.parametrize("changed", ["cohort", "values", "code"])
def test_a_state_of_other_data_or_code_is_ignored(output, tmp_path, monkeypatch, changed):
    other, code = tmp_path / "other", ""
    shutil.copytree(output, other, symlinks=True, ignore=shutil.ignore_patterns("runs"))
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "validate", lambda self: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(other, tmp_path / "run", *run_of(epochs=1), save_seconds=0.0)
    if changed == "cohort":
        path = other / "cohorts/in_hospital_mortality.parquet"
        cohort = pl.read_parquet(path)
        cohort.with_columns(label=1 - pl.col("label")).write_parquet(path)
    elif changed == "values":
        values = np.load(other / "data/hourly/values.npy")
        np.save(other / "data/hourly/values.npy", values + 1)
    else:
        code = "another"
    train(other, tmp_path / "fresh", *run_of(epochs=1), key=code)
    train(other, tmp_path / "run", *run_of(epochs=1), key=code)
    assert_same_end(tmp_path / "fresh", tmp_path / "run")


def test_a_state_of_another_config_is_refused(output, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "validate", lambda self: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(output, tmp_path, *run_of(), save_seconds=0.0)
    with pytest.raises(CheckpointError, match=r"(?s)another config.*batch_size: 8, 16"):
        train(output, tmp_path, *run_of(batch_size=8))


def test_weights_of_another_config_are_refused(finished, tmp_path):
    folder, _ = finished
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text((folder / "config.json").read_text().replace('"seed": 40', '"seed": 42'))
    with pytest.raises(CheckpointError, match="saved with another"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="at least one is missing"):
        load_model(tmp_path / "nothing")


def test_workers_and_resident_inputs_change_nothing(output, finished, tmp_path, monkeypatch):
    train(output, tmp_path / "plain", *run_of(epochs=1))
    train(output, tmp_path / "workers", *run_of(workers=1, epochs=1))
    assert_same_end(tmp_path / "plain", tmp_path / "workers")
    monkeypatch.setattr(training, "place_inputs", lambda data, where, device: to_device(data, device))
    train(output, tmp_path / "resident", *run_of(epochs=1))
    assert_same_end(tmp_path / "plain", tmp_path / "resident")


@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_trains(output, tmp_path, model):
    experiment = "six_tasks" if MODELS[model].multi_task else "diagnosis"
    _, state = train(output, tmp_path, *run_of(model, experiment, epochs=1, baseline_epochs=1))
    assert state.best_epoch == 1
    loaded, run = load_model(tmp_path)
    assert type(loaded) is MODELS[model] and run.model == model


def test_rates_are_halved_by_the_rule():
    """The worked example of the specification: losses 5, 4, 4, 3, 3.5."""
    rates, losses, seen = {"task": 1.0}, {"task": []}, []
    for loss in (5.0, 4.0, 4.0, 3.0, 3.5):
        seen.append(rates["task"])
        losses["task"].append(loss)
        adapt_rates(rates, losses)
    assert seen == [1.0, 1.0, 1.0, 0.5, 0.5] and rates["task"] == 0.25


def read_log(folder: Path) -> pl.DataFrame:
    return pl.read_csv(folder / "log.csv")


def test_the_log_has_every_task_of_every_epoch(finished):
    """Its losses are those of the history, and the parts add up."""
    folder, state = finished
    log, history = read_log(folder), pl.read_parquet(folder / "history.parquet")
    for name in ("epoch", "phase", "task"):
        assert log[name].to_list() == history[name].to_list()
    np.testing.assert_allclose(log["loss"], history["loss"])
    train = log.filter(phase="train")
    sizes = {task: len(shuffled(len(data), 16, 0)) for task, data in train_sizes(folder).items()}
    assert train["step"].to_list() == np.cumsum([sizes[task] for _ in range(3) for task in SMALL["tasks"]]).tolist()
    parts = train["prediction_loss"] + 0.5 * train["decorrelation_loss"] + train["balance_loss"]
    weights = [TASKS[task].loss_weight for task in train["task"]]
    np.testing.assert_allclose(parts.to_numpy() * weights, train["loss"], rtol=1e-4)
    assert (train["samples_per_second"] > 0).all() and train["peak_gpu_mib"].null_count() == len(train)
    val = log.filter(phase="val")
    assert val["score"].is_between(0, 2).all() and val["lr"].null_count() == len(val)
    best = val.group_by("epoch").agg(pl.col("score").sum()).sort("score", "epoch", descending=[True, False])
    assert best["epoch"][0] == state.best_epoch


def train_sizes(folder: Path):
    output = folder.parents[3]
    return {task: load_task(output, task, "train", max_hours=12) for task in SMALL["tasks"]}


@pytest.mark.parametrize("step", [4, 6, 11])
def test_the_log_of_a_killed_run_has_each_row_once(output, finished, tmp_path, monkeypatch, step):
    done = 0
    original = torch.optim.Adam.step

    def dying(self, *args, **kwargs):
        nonlocal done
        done += 1
        if done == step:
            raise Killed
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", dying)
        with pytest.raises(Killed):
            train(output, tmp_path, *run_of(), save_seconds=0.0)
    before = read_log(tmp_path) if (tmp_path / "log.csv").exists() else None
    train(output, tmp_path, *run_of(), save_seconds=0.0)
    log, expected = read_log(tmp_path), read_log(finished[0])
    measured = ["samples_per_second"]
    assert log.drop(measured).equals(expected.drop(measured))
    if before is not None:  # what was done before is not measured again
        assert log.head(before.height)["samples_per_second"].equals(before["samples_per_second"])
    forget_state(tmp_path)
    train(output, tmp_path, *run_of(seed=42, epochs=1))
    assert read_log(tmp_path).height == 6  # another run in the same folder begins a new log


def test_the_event_file_has_the_numbers_of_the_log(output, tmp_path):
    train(output, tmp_path, *run_of(epochs=1))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    log = read_log(tmp_path)
    assert log.height
    for row in log.iter_rows(named=True):
        for name in set(log.columns) - {"epoch", "step", "phase", "task"}:
            tag = f"{row['task']}/{row['phase']}/{name}"
            found = [] if tag not in events.Tags()["scalars"] else events.Scalars(tag)
            values = [event.value for event in found if event.step == row["step"]]
            assert values == ([] if row[name] is None else [pytest.approx(row[name])])


def test_a_single_task_keeps_its_rate(output, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "adapt_rates", lambda *_: pytest.fail("the rule is for several tasks"))
    _, state = train(output, tmp_path, *run_of(experiment="readmission", epochs=2))
    assert state.rates == {"readmission": 1e-3}


def test_batches():
    groups = shuffled(70, 32, seed=1)
    assert [len(rows) for rows in groups] == [32, 32]
    assert len(np.unique(np.concatenate(groups))) == 64
    assert [len(rows) for rows in shuffled(20, 32, seed=1)] == [20]
    assert [len(rows) for rows in shuffled(64, 32, seed=1)] == [32, 32]
    assert shuffled(0, 32, seed=1) == []
    assert [len(rows) for rows in in_order(70, 32)] == [32, 32, 6]


def test_batches_are_of_one_task_in_training_order(output, tmp_path, monkeypatch):
    seen = []
    original = MODELS["flexcare"].loss
    monkeypatch.setattr(MODELS["flexcare"], "loss", lambda self, o, b: seen.append(b.task_name) or original(self, o, b))
    train(output, tmp_path, *run_of(epochs=1))
    assert [name for i, name in enumerate(seen) if i == 0 or seen[i - 1] != name] == SMALL["tasks"]


def test_the_first_best_score_is_kept(monkeypatch, output, tmp_path):
    """Equal scores do not replace the weights: kept only if strictly larger."""
    monkeypatch.setattr(loop.Scores, "metrics", property(lambda self: dict.fromkeys(self.task.metrics, 0.5)))
    _, state = train(output, tmp_path, *run_of(epochs=2))
    assert state.best_epoch == 1 and state.best_score == 3.0


def test_streams_depend_on_seed_epoch_and_task():
    numbers = {seed_everything(s, e, t) for s in (40, 42) for e in (1, 2) for t in ("a", "b")}
    assert len(numbers) == 8
    seed_everything(40, 1, "a")
    first = torch.rand(3)
    seed_everything(40, 1, "a")
    assert torch.equal(first, torch.rand(3))


def test_drg_has_as_many_outputs_as_the_data_has_codes(output, tmp_path):
    train(output, tmp_path, *run_of(experiment="drg", epochs=1))
    model, _ = load_model(tmp_path)
    assert model.task_outputs == {"drg": 5}


def test_the_drg_subset_is_one_percent_and_fixed(output, tmp_path):
    whole = write_output(tmp_path / "output", stays=400, tokens=(1, 2), hours=(49, 50))
    run, _ = run_of(experiment="drg_1pct")
    n = len(load_task(whole, "drg", "train"))
    chosen = [training._load(whole, replace(run, seed=seed), False, None)["drg"].train.sample_ids for seed in (40, 42)]
    assert chosen[0] == chosen[1] and len(chosen[0]) == n // 100
    assert len(training._load(whole, replace(run, percent=100), False, None)["drg"].train) == n


def test_pretrained_weights_are_taken_over(output, finished, tmp_path, monkeypatch):
    folder, _ = finished
    before = {}

    def remember(self):
        before.update({name: value.clone() for name, value in self.model.state_dict().items()})
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "run_epochs", remember)
        with pytest.raises(Killed):
            train(output, tmp_path, *run_of(experiment="drg_100pct_pretrained"), pretrained=folder)
    earlier = load_file(folder / "model.safetensors")
    fresh = {name for name in before if name not in earlier}
    assert fresh == {"heads.drg.weight", "heads.drg.bias"}
    assert all(torch.equal(before[name], earlier[name]) for name in before if name not in fresh)
    with pytest.raises(TrainError, match="--pretrained"):
        train(output, tmp_path, *run_of(experiment="drg_100pct_pretrained"))
    with pytest.raises(CheckpointError, match="experts"):
        train(output, tmp_path, *run_of(experiment="drg_1pct_pretrained", experts=4), pretrained=folder)


@pytest.fixture
def without_diagnosis(output, tmp_path) -> Path:
    """The same data, with a cohort that has no training samples, and a manifest that says which data is not set."""
    other = tmp_path / "other"
    shutil.copytree(output, other, symlinks=True, ignore=shutil.ignore_patterns("runs"))
    path = other / "cohorts/diagnosis.parquet"
    cohort = pl.read_parquet(path).filter(pl.col("split") != "train")
    path.unlink()
    sections = tmp_path / "store/sections-0123456789ab"
    spec = {"raw": {"metadata": "absent", "admissions": "0" * 16}, "upstream": {"sections": "0123456789ab"}}
    with write_stage(tmp_path / "store/cohort-diagnosis-0123456789ab", spec=spec) as folder:
        cohort.write_parquet(folder / "diagnosis.parquet")
    with write_stage(sections, spec={"raw": {"discharge": "absent"}}):
        pass
    path.symlink_to(tmp_path / "store/cohort-diagnosis-0123456789ab/diagnosis.parquet")
    return other


def test_a_run_of_all_tasks_leaves_out_an_empty_one_and_says_so(without_diagnosis, tmp_path):
    """It gives the same bytes as a run that was not asked for that task."""
    settings = SMALL | {"epochs": 1}
    for name, tasks in (("asked", SMALL["tasks"]), ("others", SMALL["tasks"][:2])):
        given = settings | {"tasks": tasks}
        run(without_diagnosis, tmp_path / name, model="flexcare", experiment="six_tasks", seed=40, settings=given)
    assert_same_end(tmp_path / "asked", tmp_path / "others")
    asked, others = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("asked", "others"))
    reason = "its cohort has no training samples (raw.mimic_cxr_jpg is not set, raw.mimic_iv_note is not set)"
    assert asked.pop("left_out") == {"diagnosis": reason}
    assert asked == others and set(asked["n"]) == set(SMALL["tasks"][:2])


def test_a_run_of_one_empty_task_fails_with_the_lines_to_paste(without_diagnosis, tmp_path):
    for experiment, tasks in (("diagnosis", SMALL["tasks"]), ("six_tasks", ["diagnosis"])):
        with pytest.raises(NoSamplesError) as raised:
            run(
                without_diagnosis, tmp_path / "run", model="flexcare", experiment=experiment, seed=40,
                settings=SMALL | {"tasks": tasks},
            )  # fmt: skip
        text = str(raised.value)
        assert text.startswith("diagnosis: its cohort has no training samples (raw.mimic_cxr_jpg is not set, ")
        assert "\nraw:\n  mimic_cxr_jpg: /path/to/mimic_cxr_jpg\n  mimic_iv_note: /path/to/mimic_iv_note" in text
    assert not (tmp_path / "run/metrics.json").exists()


def test_an_empty_task_of_a_target_of_many_runs_stops_nothing(without_diagnosis, tmp_path):
    run(
        without_diagnosis, tmp_path / "run", model="mt", experiment="diagnosis", seed=40, settings=SMALL,
        required=False,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["metrics"] == {} and set(metrics["left_out"]) == {"diagnosis"}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.json"]


def test_interaction_evaluates_every_task_after_each(output, finished, tmp_path):
    train(output, tmp_path, *run_of(), interaction=True)
    history = pl.read_parquet(tmp_path / "history.parquet")
    after = history.filter(pl.col("phase").str.starts_with("after_"))
    assert after.height == 3 * 3 * 3
    assert after["phase"].unique().sort().to_list() == sorted(f"after_{task}" for task in SMALL["tasks"])
    one, two = (load_file(folder / "model.safetensors") for folder in (finished[0], tmp_path))
    assert all(torch.equal(one[name], two[name]) for name in one)  # looking changes nothing


def test_experiments_and_settings():
    assert {"six_tasks", "drg_1pct", "drg_100pct", "drg_1pct_pretrained", "drg_100pct_pretrained"} < set(EXPERIMENTS)
    run, execution = resolve_run("flexcare", "six_tasks", 40, {})
    assert (run.epochs, run.lr, run.batch_size, len(run.tasks), execution.threads) == (25, 1e-4, 32, 6, 2)
    epochs = {name: resolve_run("flexcare", name, 40, {})[0].epochs for name in ("drg", "drg_1pct", "readmission")}
    assert epochs == {"drg": 40, "drg_1pct": 40, "readmission": 25}
    medfuse = resolve_run("medfuse", "readmission", 40, {})[0]
    assert (medfuse.epochs, medfuse.lr) == (40, 5e-4)
    with pytest.raises(RunConfigError, match="trained per task"):
        resolve_run("medfuse", "six_tasks", 40, {})
    with pytest.raises(RunConfigError, match=r"(?s)model: expected.*experiment: expected.*train.epoch"):
        resolve_run("flexcar", "seven", 40, {"epoch": 3})


def test_out_of_memory_gives_advice(output, tmp_path, monkeypatch):
    def full(self):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(loop.Loop, "run_epochs", full)
    with pytest.raises(TrainError, match=r"not enough memory(?s:.*)train.batch_size below 16"):
        train(output, tmp_path, *run_of())


def test_a_loss_that_is_not_finite_stops_the_run(output, tmp_path, monkeypatch):
    original = MODELS["flexcare"].loss
    monkeypatch.setattr(MODELS["flexcare"], "loss", lambda self, o, b: original(self, o, b) * float("nan"))
    with pytest.raises(TrainError, match="not finite"):
        train(output, tmp_path, *run_of())


def test_no_training_samples(output, tmp_path):
    empty = tmp_path / "output"
    (empty / "cohorts").mkdir(parents=True)
    cohort = pl.read_parquet(output / "cohorts/readmission.parquet").filter(pl.col("split") == "val")
    cohort.write_parquet(empty / "cohorts/readmission.parquet")
    (empty / "data").symlink_to(output / "data")
    with pytest.raises(TrainError, match="expected training samples"):
        train(empty, tmp_path / "run", *run_of(experiment="readmission"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", [{}, {"precision": "bfloat16"}, {"data_device": "cpu"}, {"compile": True}])
def test_training_on_a_gpu(output, tmp_path, settings):
    run, execution = run_of(**{**settings, "device": "cuda"})
    loader, state = train(output, tmp_path, run, execution)
    assert loader.device.type == "cuda" and np.isfinite(state.best_score)
    assert isinstance(state, TrainState) and isinstance(loader, BatchLoader)
