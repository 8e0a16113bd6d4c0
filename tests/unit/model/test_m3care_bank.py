"""M3Care in evaluation: the answers of its bank, of one sample in 20 orders, and of random batches."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from support.fabricated_samples import write_output
from support.invented_batches import PATTERNS, details, make_batch, make_model, scores
from support.parts_of_batches import take

from flexcare_model.analysis import inside
from flexcare_model.analysis.write import run as analyse
from flexcare_model.data.dataset import load_task
from flexcare_model.data.loader import BatchLoader, one_per_patient, shuffled
from flexcare_model.training.bank import draw_bank
from flexcare_model.training.checkpoint import load_model
from flexcare_model.training.evaluate import evaluate_run, score
from flexcare_model.training.metrics import compute
from flexcare_model.training.predict import predict
from flexcare_model.training.run_config import resolve_run
from flexcare_model.training.train import train

CPU = BatchLoader(torch.device("cpu"))
SMALL = {
    "hidden_dim": 16, "layers": 2, "batch_size": 8, "max_hours": 12, "baseline_epochs": 2, "threads": 1,
    "device": "cpu", "baseline_lr": 3e-3, "models": {"m3care": {"bank": 20, "permutations": 5}},
}  # fmt: skip


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Samples of 60 stays of 20 patients: 3 consecutive ones of each, in one split."""
    output = write_output(tmp_path_factory.mktemp("output"), tokens=(1, 5))
    for path in (output / "cohorts").glob("*.parquet"):
        pl.read_parquet(path).with_columns(pl.col("subject_id") // 3).write_parquet(path)
    return output


def trained(output, folder, **settings):
    run, execution = resolve_run("m3care", "phenotyping", 40, SMALL | settings)
    train(output, folder, run, execution)
    evaluate_run(output, folder, CPU, best_epoch=1)
    return folder


@pytest.fixture(scope="module")
def run(output):
    return trained(output, output / "runs" / "m3care" / "phenotyping" / "seed40")


# --- the equations ----------------------------------------------------------------------------------------------


def selu(x):
    return torch.nn.functional.selu(x)


def slow_answers(model, bank, batch, neighbours):
    """Summary vectors v_m of the samples of ``batch``, one pair of samples and one sum at a time."""
    norm, t = model.batch_norm, float(model.threshold.sigmoid())
    parts = list(model.completion.values())
    u_bank, u_batch = (model.encoders(part, model.embedding) for part in (bank, batch))
    has_bank, has_batch = bank.present.tolist(), batch.present.tolist()

    def normal(x):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (x - norm.running_mean) * scale + norm.bias

    def views(part, x):
        return normal(part.mapping(x)), normal(x)

    def width(m, k):
        vectors = [views(parts[m], u_bank[j, m])[k] for j in range(len(bank)) if has_bank[j][m]]
        pairs = [float((x - y) @ (x - y)) for i, x in enumerate(vectors) for j, y in enumerate(vectors) if i != j]
        mean = sum(pairs) / len(pairs) if pairs else 0.0
        return mean if mean >= 1e-3 else 1.0

    widths = [[width(m, k) for k in range(2)] for m in range(3)]

    def edge(u, has, j):
        """Edge from a sample to row j of the bank, before its factor."""
        both = [m for m in range(3) if has[m] and has_bank[j][m]]
        total = 0.0
        for m in both:
            mix = float(parts[m].mix.sigmoid())
            for k, weight in ((0, 1 - mix), (1, mix)):
                x, y = views(parts[m], u[m])[k], views(parts[m], u_bank[j, m])[k]
                distance = float((x - y) @ (x - y))
                total += weight * sum(math.exp(-distance / (s * widths[m][k])) for s in (0.5, 1.0, 2.0)) / 3
        similarity = min(1.0, total / max(1, len(both)))
        return similarity if similarity > t else 0.0

    n, itself = len(bank), 1.0 if t < 1 else 0.0
    answers = torch.zeros(len(batch), 3, u_batch.shape[-1], dtype=u_batch.dtype)
    for m, part in enumerate(parts):
        hidden = []
        for i in range(n):
            total = itself * has_bank[i][m] * part.first(u_bank[i, m])
            for j in range(n):
                if j != i and has_bank[j][m]:
                    total = total + edge(u_bank[i], has_bank[i], j) * neighbours / (n - 1) * part.first(u_bank[j, m])
            hidden.append(selu(total + part.first_bias))
        for i in range(len(batch)):
            edges = [edge(u_batch[i], has_batch[i], j) * neighbours / n * has_bank[j][m] for j in range(n)]
            own = itself * has_batch[i][m]
            first = own * part.first(u_batch[i, m]) + sum(e * part.first(u_bank[j, m]) for j, e in enumerate(edges))
            state = selu(first + part.first_bias)
            second = own * part.second(state) + sum(e * part.second(hidden[j]) for j, e in enumerate(edges))
            graph = selu(second + part.second_bias)
            p, r = part.from_graph(graph).sigmoid(), part.from_own(u_batch[i, m]).sigmoid()
            share = p / (p + r)
            answers[i, m] = share * graph + (1 - share) * u_batch[i, m] if has_batch[i][m] else graph
    return answers


def test_the_bank_equals_the_equations_pair_by_pair():
    model = make_model("m3care", bank=14).double()
    batch = make_batch(dtype=torch.float64)
    bank = make_batch([(1, 1, 1), (1, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1)], dtype=torch.float64, seed=5)
    with torch.no_grad():
        model.threshold.fill_(-1.2)
        model.fill_bank([take(bank, [0, 1]), take(bank, [2, 3, 4, 5])], neighbours=3)
        expected = slow_answers(model, bank, batch, neighbours=3)
    found = details(model, batch)
    edges = found["adjacency"] > 0
    assert 0.2 < edges[:, :6].double().mean() < 0.95 and not edges[:, 6:].any()  # some neighbours, and empty rows
    torch.testing.assert_close(found["summary"], expected, rtol=0, atol=1e-10)


def test_the_row_mask_gives_absent_samples_a_constant_with_a_bank_too():
    model, batch = make_model("m3care", row_mask=True), make_batch()
    absent = details(model, batch)["completed"][~batch.present[:, 1], 1]
    torch.testing.assert_close(absent, absent[:1].expand_as(absent), rtol=0, atol=1e-6)
    plain = details(make_model("m3care"), batch)["completed"][~batch.present[:, 1], 1]
    assert not torch.allclose(plain, plain[:1].expand_as(plain), atol=1e-4)


def test_the_neighbours_matter():
    """Other samples in the bank give other scores, and so do other samples in the batch where the bank is not used."""
    model, batch = make_model("m3care"), make_batch()
    with torch.no_grad():
        model.threshold.fill_(-50.0)  # all are neighbours
    before = scores(model, batch)
    model.fill_bank([make_batch(PATTERNS, seed=77)], neighbours=7)
    assert not torch.allclose(scores(model, batch), before, atol=1e-4)
    model.uses_bank = False
    assert not torch.allclose(scores(model, take(batch, [4])), scores(model, batch)[4:5], atol=1e-4)


def test_without_a_bank_there_is_no_answer():
    model, batch = make_model("m3care"), make_batch()
    model.bank.present.zero_()
    model.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="expected a bank of training samples in evaluation, got none; call fill_bank"):
        model(batch)
    assert model.train()(batch).logits.isfinite().all()
    with pytest.raises(ValueError, match="expected eval mode"):
        model.fill_bank([batch], neighbours=7)
    with pytest.raises(ValueError, match="expected 1 to 256 samples for the bank, got 0"):
        model.eval().fill_bank([], neighbours=7)


# --- drawing ----------------------------------------------------------------------------------------------------


def test_the_bank_has_one_sample_of_a_patient():
    subjects = np.repeat(np.arange(50), 4)
    rows = draw_bank(subjects, 256, seed=1)
    assert sorted(subjects[rows]) == list(range(50)) and (np.diff(rows) > 0).all()
    assert np.array_equal(rows, draw_bank(subjects, 256, seed=1))
    assert not np.array_equal(rows, draw_bank(subjects, 256, seed=2))
    few = draw_bank(subjects, 10, seed=1)
    assert len(few) == 10 and len(set(subjects[few])) == 10
    positions = np.concatenate([draw_bank(subjects, 256, seed=s) % 4 for s in range(40)])
    assert np.bincount(positions).min() > 400  # each of the 4 samples of a patient in about 500 of 2000 draws


@pytest.mark.parametrize("counts", [[1] * 30, [40, 1, 1], [5, 5, 5, 5], [3], [1]])
def test_random_batches_hold_at_most_one_sample_of_a_patient(counts):
    subjects = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    groups = one_per_patient(subjects, 8, seed=3)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(subjects)))
    assert all(len(set(subjects[rows])) == len(rows) <= 8 for rows in groups)
    sizes = [len(rows) for rows in groups]
    assert max(sizes) - min(sizes) <= 1 and len(groups) == max(-(-len(subjects) // 8), max(counts))
    assert [rows.tolist() for rows in groups] == [rows.tolist() for rows in one_per_patient(subjects, 8, seed=3)]


# --- runs -------------------------------------------------------------------------------------------------------


def test_20_orders_give_one_answer(output, run):
    """Also in other batch sizes, and alone."""
    model, _ = load_model(run)
    data = load_task(output, "phenotyping", "test", max_hours=12)
    expected = score(model, data, CPU, batch_size=8).scores
    answers = []
    for seed in range(20):
        groups = shuffled(len(data), 1 if seed == 19 else len(data) - seed // 2, seed)
        rows = np.concatenate(groups)
        with torch.no_grad():
            found = torch.cat([model(batch).logits.sigmoid() for batch in CPU.batches(data, groups)])
        assert len(rows) >= len(data) - 10
        np.testing.assert_allclose(found.numpy(), expected[rows], rtol=0, atol=1e-6)
        answers.append(rows.tolist())
    assert len({tuple(rows) for rows in answers}) == 20
    model.uses_bank = False  # the test can fail: with the batch as the graph the orders differ
    with torch.no_grad():
        two = [
            np.concatenate([model(batch).logits.sigmoid().numpy() for batch in CPU.batches(data, groups)])[
                np.argsort(np.concatenate(groups))
            ]
            for groups in (one_per_patient(data.subject_ids, 4, seed) for seed in (1, 2))
        ]
    assert np.abs(two[0] - two[1]).max() > 1e-5


def test_predict_gives_the_predictions_of_the_run_without_its_training_data(output, run, tmp_path):
    written = pl.read_parquet(run / "predictions/phenotyping.parquet")
    other = tmp_path / "elsewhere"
    shutil.copytree(output, other, symlinks=True, ignore=shutil.ignore_patterns("runs"))
    path = other / "cohorts/phenotyping.parquet"
    test = pl.read_parquet(path).filter(pl.col("split") == "test")
    test.write_parquet(path)
    frame = predict(run, "phenotyping", output=other)
    assert frame["sample_id"].to_list() == written["sample_id"].to_list()
    columns = written.columns[1:]
    np.testing.assert_array_equal(frame.select(columns), written.select(columns))
    reverse = predict(run, "phenotyping", output=other, cohort=test.reverse())
    np.testing.assert_allclose(reverse.reverse().select(columns), written.select(columns), rtol=0, atol=1e-6)
    for row in range(3):
        alone = predict(run, "phenotyping", output=other, cohort=test[row : row + 1])
        np.testing.assert_allclose(alone.select(columns), written[row : row + 1].select(columns), rtol=0, atol=1e-6)


def test_the_run_says_which_samples_its_bank_has(output, run):
    bank = pl.read_parquet(run / "bank.parquet")
    cohort = pl.read_parquet(output / "cohorts/phenotyping.parquet").filter(pl.col("split") == "train")
    assert bank.columns == ["sample_id", "subject_id"] and bank["subject_id"].is_unique().all()
    assert bank.join(cohort, on=["sample_id", "subject_id"]).height == bank.height
    weights = load_file(run / "model.safetensors")
    data = load_task(output, "phenotyping", "train", max_hours=12, augment=False)
    rows = [data.sample_ids.index(name) for name in bank["sample_id"]]
    assert np.array_equal(weights["bank.present"][: len(rows)].numpy(), data.present[rows])
    assert not weights["bank.present"][len(rows) :].any()
    model, _ = load_model(run)
    before = {name: value.clone() for name, value in model.bank.state_dict().items()}
    model.fill_bank([data.batch(rows)], neighbours=7)
    for name, value in model.bank.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-5)


def test_permutations_are_averaged_and_their_spread_is_written(output, run, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = trained(
        output, tmp_path / "run", models={"m3care": {"bank": 20, "permutations": 5, "evaluation": "permutations"}}
    )
    content = json.loads((folder / "metrics.json").read_text())["permutations"]
    assert content["orders"] == 5
    spread = content["spread"]["phenotyping"]
    assert spread["macro_auroc"]["std"] > 0
    assert all(v["min"] <= v["mean"] <= v["max"] for v in spread.values())
    assert any("macro_auroc in 5 orders: mean" in message for message in caplog.messages)
    assert "permutations" not in json.loads((run / "metrics.json").read_text())
    model, config = load_model(folder)
    data = load_task(output, "phenotyping", "test", max_hours=12)
    answers = []
    for seed in range(5):
        groups = one_per_patient(data.subject_ids, config.batch_size, seed)
        model.uses_bank = False
        with torch.no_grad():
            found = np.concatenate([model(b).logits.sigmoid().numpy() for b in CPU.batches(data, groups)])
        answers.append(found[np.argsort(np.concatenate(groups))])
    written = pl.read_parquet(folder / "predictions/phenotyping.parquet").drop("sample_id").to_numpy()
    np.testing.assert_allclose(written, np.mean(answers, axis=0), rtol=0, atol=1e-6)
    each = [compute("phenotyping", data.labels.numpy(), found)["macro_auroc"] for found in answers]
    assert spread["macro_auroc"]["mean"] == pytest.approx(np.mean(each))
    assert spread["macro_auroc"]["std"] == pytest.approx(np.std(each))


def test_training_and_weights_are_those_of_the_bank(output, run, tmp_path):
    """The way of evaluation changes no weight; `predict` uses the bank in both."""
    folder = trained(
        output, tmp_path / "run", models={"m3care": {"bank": 20, "permutations": 5, "evaluation": "permutations"}}
    )
    one, two = (load_file(place / "model.safetensors") for place in (run, folder))
    assert all(torch.equal(one[name], two[name]) for name in one)
    left, right = (predict(place, "phenotyping", output=output, split="test") for place in (run, folder))
    assert left.equals(right)


def test_analyses_use_the_bank_or_the_orders_as_the_run_does(output, run, tmp_path):
    other = trained(
        output, tmp_path / "run", models={"m3care": {"bank": 20, "permutations": 5, "evaluation": "permutations"}}
    )
    frames = []
    for place in (run, other):
        out = tmp_path / place.parent.name / "validation"
        analyse(output, place, out, kind="validation", device="cpu")
        frames.append(pl.read_parquet(out / "validation/phenotyping.parquet"))
    assert not frames[0].equals(frames[1])
    model, _ = load_model(run)
    data = {"phenotyping": load_task(output, "phenotyping", "val", max_hours=12)}
    expected = score(model, data["phenotyping"], CPU, batch_size=3).metrics
    rows = inside.score_with_less(model, data, CPU, batch_size=8).filter(kind="drop_rate", rate=0.0)
    assert dict(rows.select("metric", "value").iter_rows()) == pytest.approx(expected, abs=1e-6)
