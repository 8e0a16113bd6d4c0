"""The batch: its invariants, its moves, and how rows are grouped by length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fabricated_samples import write_output
from support.invented_batches import PATTERNS, changed, make_batch

from flexcare_model.data.batch import BatchError, task_of
from flexcare_model.data.dataset import load_task, to_device
from flexcare_model.data.loader import BatchLoader
from flexcare_model.models import MODELS
from flexcare_model.models.packing import Packing, group_rows
from flexcare_model.training.checkpoint import save_model
from flexcare_model.training.predict import predict
from flexcare_model.training.run_config import resolve_run


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return write_output(tmp_path_factory.mktemp("output"), tokens=(1, 5))


def test_visible_counts_class_token_and_contents():
    batch = make_batch()
    lengths = torch.stack([batch.ts_len, torch.full((7,), 196), batch.note_len], dim=1)
    assert torch.equal(batch.visible, (lengths + 1) * batch.present)
    assert np.array_equal(batch.rows, np.array(PATTERNS, dtype=bool))


def test_moved_batch_is_the_same():
    batch = make_batch()
    moved = batch.to("cpu").check()
    assert torch.equal(moved.ts, batch.ts) and moved.visible is batch.visible and moved.task_name == batch.task_name


BAD = {
    "a sample without any modality": (
        {"present": torch.tensor([[True, False, False], [False, False, False]]), "ts_len": torch.tensor([9, 0])},
        "expected a modality in every sample, got 1 of 2 without any",
    ),
    "a longer series than there is": ({"ts_len": torch.tensor([99, 3])}, "time_series of 1 to 9 positions .* 1 of 2"),
    "an empty series": ({"ts_len": torch.tensor([0, 3])}, "time_series of 1 to 9 positions .* 1 of 2"),
    "a longer note than there is": ({"note_len": torch.tensor([1, 99])}, "note of 0 to [0-9]+ positions .* 1 of 2"),
    "hours of an absent series": (
        {"present": torch.tensor([[True, True, True], [False, True, True]])},
        "expected ts_len 0 where there is no time_series, got 1 samples above 0",
    ),
    "lengths that were counted before a change": ({"visible": torch.full((2, 3), 4)}, "image of 196|expected visible"),
    "another number of labels": ({"label": torch.zeros(3)}, r"expected label of shape \(2,\), got \(3,\)"),
    "columns": ({"ts": torch.zeros(2, 9, 3)}, r"expected ts of shape \(2, 9, 76\), got \(2, 9, 3\)"),
    "stored pixels": ({"img": torch.zeros(2, 3, 224, 224, dtype=torch.uint8)}, "expected img of a float type"),
    "numbers for presence": (
        {"present": torch.ones(2, 3, dtype=torch.int64), "visible": torch.ones(2, 3, dtype=torch.int64)},
        "expected present of type bool",
    ),
    "more hours than positions": ({"ts": torch.zeros(2, 513, 76)}, "expected ts of 1 to 512 hours, got 513"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_batch_whose_parts_do_not_agree_is_refused(case):
    fields, message = BAD[case]
    batch = make_batch([(1, 1, 1)] * 2, hours=9, seed=3)
    padding = torch.zeros(2, 9 - batch.ts.shape[1], 76)
    good = changed(batch, ts=torch.cat([batch.ts, padding], dim=1)).check()
    with pytest.raises(BatchError, match=f"^batch of in_hospital_mortality: .*(?:{message})"):
        replace(good, **{"visible": None} | fields).check()


def empty_one(data):
    """``data`` with a sample that lacks everything, as no loader makes it."""
    present = data.present.copy()
    present[1] = False
    return data._with(replace(data.inputs, present=present))


@pytest.mark.parametrize("path", ["cpu", "workers", "resident", "dataset", "collate"])
def test_every_way_to_load_checks_its_batches(output, path):
    data = empty_one(load_task(output, "readmission", "val"))
    rows, cpu = [np.arange(4)], torch.device("cpu")
    with pytest.raises(BatchError, match="expected a modality in every sample, got 1 of 4 without any"):
        if path == "dataset":
            data.batch(range(4))
        elif path == "collate":
            sample = load_task(output, "readmission", "val")[0]
            data.collate([sample] * 3 + [replace(sample, series=None, image=None, note=None)])
        else:
            source = to_device([data], cpu)[0] if path == "resident" else data
            list(BatchLoader(cpu, workers=1 if path == "workers" else 0).batches(source, rows))


def test_predict_checks_its_batches(output, monkeypatch):
    folder = output / "runs" / "mt" / "readmission" / "seed40"
    run, _ = resolve_run("mt", "readmission", 40, {"hidden_dim": 8, "layers": 1})
    save_model(folder, MODELS["mt"](run.settings, {"readmission": 1}).state_dict(), run, {"readmission": 1})
    assert predict(folder, "readmission", split="val").height
    monkeypatch.setattr("flexcare_model.training.predict.load_task", lambda *a, **k: empty_one(load_task(*a, **k)))
    with pytest.raises(BatchError, match="expected a modality in every sample"):
        predict(folder, "readmission", split="val")


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="expected a task id of"):
        task_of(7)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 512), min_size=1, max_size=40), st.sampled_from([0, 32, 16384]))
def test_groups_hold_every_row_with_a_length_once(lengths, cost):
    lengths = np.array(lengths)
    groups = group_rows(lengths, cost)
    rows = sorted(int(row) for group in groups for row in group)
    assert rows == np.flatnonzero(lengths).tolist()
    padded = sum(int(lengths[group].max()) * len(group) for group in groups)
    assert padded + cost * len(groups) <= int(lengths.max()) * len(rows) + cost  # never worse than one group
    if cost == 0:
        assert padded == lengths.sum()


def test_packing_splits_and_joins():
    packing = Packing([np.array([3, 0, 90, 4]), np.array([0, 0, 0, 2])], torch.device("cpu"))
    flat = torch.randn(packing.size, 5)
    assert torch.equal(packing.join(packing.split(flat)), flat)
    assert packing.starts[0, 1] == -1 and (packing.starts[0, [0, 2, 3]] >= 0).all()
    first = packing.scatter([part[:, 0] for part in packing.split(flat)], 4)
    assert torch.equal(first[2], flat[packing.starts[0, 2]]) and torch.equal(first[7], flat[packing.starts[1, 3]])
    assert not first[1].any() and not first[4:7].any()
