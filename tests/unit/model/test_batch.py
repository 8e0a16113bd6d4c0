"""The batch: its invariants, its moves, and how rows are grouped by length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checked_batches import checked
from support.invented_batches import PATTERNS, make_batch

from flexcare_model.data.batch import task_of
from flexcare_model.models.packing import Packing, group_rows


def test_visible_counts_class_token_and_contents():
    batch = make_batch()
    lengths = torch.stack([batch.ts_len, torch.full((7,), 196), batch.note_len], dim=1)
    assert torch.equal(batch.visible, (lengths + 1) * batch.present)
    assert np.array_equal(batch.rows, np.array(PATTERNS, dtype=bool))


def test_moved_batch_is_the_same():
    batch = make_batch()
    moved = checked(batch.to("cpu"))
    assert torch.equal(moved.ts, batch.ts) and moved.visible is batch.visible and moved.task_name == batch.task_name


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
