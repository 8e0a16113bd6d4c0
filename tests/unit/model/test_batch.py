"""The batch: its invariants, its moves, and how rows are grouped by length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.invented_batches import PATTERNS, changed, make_batch

from flexcare_model.data.batch import COLUMNS, single_task, task_of
from flexcare_model.models.packing import Packing, group_rows


def test_visible_counts_class_token_and_contents():
    batch = make_batch()
    lengths = torch.stack([batch.ts_len, torch.full((7,), 196), batch.note_len], dim=1)
    assert torch.equal(batch.visible, (lengths + 1) * batch.present)
    assert np.array_equal(batch.rows, np.array(PATTERNS, dtype=bool))


def test_take_trims_to_the_longest():
    batch = make_batch()
    part = batch.take([4, 6]).check()
    assert part.ts.shape[1] == max(1, int(batch.ts_len[4])) and part.note_tok.shape[1] == int(batch.note_len[6])
    assert torch.equal(part.label, batch.label[[4, 6]])


def test_moved_batch_is_the_same():
    batch = make_batch()
    moved = batch.to("cpu").check()
    assert torch.equal(moved.ts, batch.ts) and moved.visible is batch.visible and moved.task_name == batch.task_name


def test_two_tasks_in_one_batch_are_refused():
    assert single_task([3, 3, 3]) == 3
    with pytest.raises(ValueError, match=r"expected samples of one task, got task ids \[0, 3\]"):
        single_task([3, 0, 3])
    with pytest.raises(ValueError, match="expected samples of one task"):
        replace(make_batch(), task=torch.tensor([0, 3])).check()
    with pytest.raises(ValueError, match="expected a task id of"):
        task_of(7)


def break_batch(batch, name):
    present, ts_len, note_len = batch.present.clone(), batch.ts_len.clone(), batch.note_len.clone()
    if name == "empty row":
        present[4, 0] = False
        ts_len[4] = 0
    elif name == "longer than padded":
        ts_len[0] = batch.ts.shape[1] + 1
    elif name == "length of an absent note":
        note_len[1] = 1
    elif name == "series without hours":
        ts_len[0] = 0
    return changed(batch, present=present, ts_len=ts_len, note_len=note_len)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty row", "1 of 7 rows have no modality"),
        ("longer than padded", "1 values of ts_len outside 0 to"),
        ("length of an absent note", "1 values of note_len above 0 where note is absent"),
        ("series without hours", "1 values of ts_len are 0 where time_series is present"),
    ],
)
def test_broken_lengths_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        break_batch(make_batch(), name).check()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"img": torch.zeros(7, 3, 200, 200)}, r"img expected shape \(7, 3, 224, 224\), got \(7, 3, 200, 200\)"),
        ({"label": torch.zeros(7, 2)}, r"label expected shape \(7,\)"),
        ({"ts": torch.zeros(7, 600, COLUMNS)}, "at most 512"),
        ({"note_tok": torch.zeros(7, 11, 12, dtype=torch.int64)}, "note_tok expected a float dtype"),
        ({"ts": torch.zeros(7, 9, 75)}, "ts expected shape"),
        ({"visible": torch.zeros(7, 3, dtype=torch.int64)}, "visible does not agree"),
    ],
)
def test_wrong_shapes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(make_batch(), **fields).check()


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
