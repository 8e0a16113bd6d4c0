"""No model reads across samples in evaluation: neither other patients, nor later hours of the same stay.

The cohort asks about each stay at several hours, as with `sampling: all`, so hours of one stay share a batch.
"""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest
import torch
from support.fabricated_samples import write_output
from support.invented_batches import NAMES, PATTERNS, make_batch, make_model, scores
from support.parts_of_batches import joined, take

from flexcare_model.data.dataset import load_task
from flexcare_model.data.loader import BatchLoader
from flexcare_model.training.evaluate import score

CPU = BatchLoader(torch.device("cpu"))
TASK = "in_hospital_mortality"
HOURS = (5, 12, 24, 40)
"""Hours after admission at which the question is asked."""
STAYS = 6


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The first stays, each asked at all `HOURS`; radiograph and note at the last of them only."""
    output = write_output(tmp_path_factory.mktemp("output"), tokens=(1, 5))
    path = output / f"cohorts/{TASK}.parquet"
    stays = pl.read_parquet(path).head(STAYS).with_columns(split=pl.lit("test").cast(pl.Enum(["train", "val", "test"])))
    asked = [
        stays.with_columns(
            pl.format("{}-{}", "sample_id", pl.lit(hour)).alias("sample_id"),
            n_hours=pl.lit(hour, pl.Int64),
            period_length=pl.lit(float(hour)),
            dicom_id="dicom_id" if hour == HOURS[-1] else pl.lit(None, pl.String),
            study_id="study_id" if hour == HOURS[-1] else pl.lit(None, pl.Int64),
            note_id="note_id" if hour == HOURS[-1] else pl.lit(None, pl.String),
        )
        for hour in HOURS
    ]
    pl.concat(asked).sort("sample_id").write_parquet(path)
    return output


def model_of(name):
    # The drawn weights must not hide the changes below: with seed 1, ReLUs of a narrow decoder are all off.
    seed = 2 if name == "multimodn_together" else 1
    model = make_model(name, note_width=768, task=TASK, seed=seed)
    if model.bank_size:
        with torch.no_grad():
            model.threshold.fill_(-50.0)  # all are neighbours
    return model


def answers(model, output, **options):
    data = load_task(output, TASK, "test", augment=False)
    found = score(model, data, CPU, batch_size=32, **options)
    return dict(zip(found.sample_ids, found.scores[:, 0], strict=True))


def changed_after(output, folder, hour, *, of):
    """A copy of ``output`` whose hours from ``hour`` on are others, in the stays ``of`` (their numbers)."""
    shutil.copytree(output, folder, symlinks=True)
    hourly = folder / "data" / "hourly"
    values = np.load(hourly / "values.npy")
    index = pl.read_parquet(hourly / "index.parquet").filter(pl.col("stay_id").is_in([30_000 + i for i in of]))
    for row in index.iter_rows(named=True):
        part = slice(row["offset"] + hour, row["offset"] + row["n_hours"])
        values[part] = np.random.default_rng(row["stay_id"]).normal(80, 200, size=values[part].shape)
    np.save(hourly / "values.npy", values)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_later_hours_of_the_stay_change_no_answer(name, output, tmp_path):
    model = model_of(name)
    before = answers(model, output)
    after = answers(model, changed_after(output, tmp_path / "changed", 12, of=range(STAYS)))
    early = [sample for sample in before if int(sample.split("-")[1]) <= 12]
    assert len(early) == 2 * STAYS
    np.testing.assert_allclose([after[s] for s in early], [before[s] for s in early], rtol=0, atol=1e-6)
    moved = [abs(after[s] - before[s]) for s in before if s not in early]
    assert min(moved) > 1e-6  # the change is seen by those who may see it


@pytest.mark.parametrize("name", NAMES)
def test_inputs_of_other_stays_change_no_answer(name, output, tmp_path):
    model = model_of(name)
    before, after = answers(model, output), answers(model, changed_after(output, tmp_path / "changed", 0, of=[1, 3]))
    others = [sample for sample in before if sample.split("-")[0] not in ("30001", "30003")]
    assert len(others) == len(HOURS) * (STAYS - 2)
    np.testing.assert_allclose([after[s] for s in others], [before[s] for s in others], rtol=0, atol=1e-6)
    assert min(abs(after[s] - before[s]) for s in before if s not in others) > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_radiographs_notes_and_length_of_other_rows_change_no_answer(name):
    """In one batch: other contents, more hours, other modalities of the other rows."""
    model, batch = make_model(name), make_batch(hours=9, tokens=11)
    other = make_batch(PATTERNS[::-1], hours=60, tokens=80, seed=8)
    before = scores(model, batch)
    for row in range(len(batch)):
        mixed = joined(take(other, [r for r in range(len(other)) if r != row]), take(batch, [row])).check()
        torch.testing.assert_close(scores(model, mixed)[-1], before[row], rtol=0, atol=2e-6)


def test_random_batches_of_m3care_do_not_read_later_hours(output, tmp_path):
    """Without the bank an answer depends on its batch mates, which are other patients: never on its later hours."""
    model = model_of("m3care")
    before = answers(model, output, permutations=4)
    changed = changed_after(output, tmp_path / "changed", 12, of=[2])
    after = answers(model, changed, permutations=4)
    early = ["30002-5", "30002-12"]
    np.testing.assert_allclose([after[s] for s in early], [before[s] for s in early], rtol=0, atol=1e-6)
    assert abs(after["30002-40"] - before["30002-40"]) > 1e-6


def test_whole_batches_of_m3care_would_read_later_hours(output, tmp_path):
    """The fault that the bank removes: with the batch as the graph, hour 5 reads the hours after 12."""
    model = model_of("m3care")
    changed = changed_after(output, tmp_path / "changed", 12, of=[2])

    def at_hour_5(folder):
        data = load_task(folder, TASK, "test", augment=False)
        with torch.no_grad():
            logits = model(data.batch(range(len(data)))).logits
        return float(logits[data.sample_ids.index("30002-5"), 0])

    assert abs(at_hour_5(output) - at_hour_5(changed)) < 1e-6
    model.uses_bank = False
    assert abs(at_hour_5(output) - at_hour_5(changed)) > 1e-4
