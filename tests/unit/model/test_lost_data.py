"""Losing data inside a modality, and more often for sicker patients: recounted in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.fabricated_samples import write_output

from flexcare_data.series import COLUMN_PLAN
from flexcare_data.variables import COLUMNS, VARIABLES
from flexcare_model.analysis.inside import DROP_RATES, constant_answer, drop_modalities
from flexcare_model.analysis.lost_data import (
    LessInside,
    default_columns,
    lose_hours,
    lose_patches,
    lose_tokens,
    loss_rates,
    sample_keys,
    severity_ranks,
    uniform,
)
from flexcare_model.data.dataset import load_task
from flexcare_model.training.metrics import compute

N_VALUES = len(COLUMN_PLAN.variable)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_task(write_output(tmp_path_factory.mktemp("lost"), stays=24), "readmission", split=None, augment=False)


def carried_forward(rng, hours):
    """A series (1, hours, 76) as the build makes it: the first hour holds defaults where nothing is observed."""
    observed = rng.random((hours, len(VARIABLES))) < 0.3
    columns = rng.normal(size=(hours, N_VALUES)).astype(np.float32)
    for column, variable in enumerate(COLUMN_PLAN.variable):
        current = default_columns()[column]
        for hour in range(hours):
            current = columns[hour, column] = columns[hour, column] if observed[hour, variable] else current
    return np.concatenate([columns, observed], axis=1).astype(np.float32)[None]


@pytest.mark.parametrize("seed", range(5))
def test_a_lost_hour_is_one_in_which_nothing_was_measured(seed):
    rng = np.random.default_rng(seed)
    ts = carried_forward(rng, 12)
    lost = rng.random((1, 12)) < 0.5
    found = lose_hours(ts, np.array([12]), lost, default_columns())
    for column, variable in enumerate(COLUMN_PLAN.variable):
        current = default_columns()[column]
        for hour in range(12):
            measured = ts[0, hour, N_VALUES + variable] == 1 and not lost[0, hour]
            current = ts[0, hour, column] if measured else current
            assert found[0, hour, column] == current
            assert found[0, hour, N_VALUES + variable] == measured
    assert (lose_hours(ts, np.array([12]), np.zeros((1, 12), bool), default_columns()) == ts).all()


def test_what_was_carried_from_before_the_window_is_kept_and_padding_stays_empty():
    ts = np.zeros((1, 3, len(COLUMNS)), np.float32)
    ts[0, :2, :N_VALUES] = 7.0  # never observed inside the window
    found = lose_hours(ts, np.array([2]), np.ones((1, 3), bool), default_columns())
    assert (found == ts).all()


def test_patches_and_tokens_by_hand():
    img = torch.ones(1, 3, 224, 224)
    lost = torch.zeros(1, 196, dtype=torch.bool)
    lost[0, 15] = True  # second row, second column
    found = lose_patches(img, lost)
    assert found.sum() == 3 * (224 * 224 - 256) and (found[0, :, 16:32, 16:32] == 0).all()
    tokens = torch.arange(1.0, 9.0).view(2, 4, 1)
    draws = np.array([[0.9, 0.1, 0.6, 0.99], [0.3, 0.2, 0.1, 0.99]])
    moved, length = lose_tokens(tokens, torch.tensor([3, 2]), draws, 0.5)
    assert moved[..., 0].tolist() == [[1, 3, 0, 0], [5, 0, 0, 0]]  # of the second note the largest draw remains
    assert length.tolist() == [2, 1]


@pytest.mark.parametrize("modality", ["time_series", "image", "note"])
def test_the_loss_does_not_depend_on_the_batch_and_is_nested(data, modality):
    members = np.flatnonzero(data.present.all(axis=1))
    having = data.subset(members)
    field = {"time_series": "ts", "image": "img", "note": "note_tok"}[modality]
    alone = LessInside(having, modality, 0.5, seed=3)
    whole, together, one = having.batch([0, 1, 2]), alone.batch([0, 1, 2]), alone.batch([1])
    length = {"time_series": int(whole.ts_len[1]), "image": 3, "note": int(together.note_len[1])}[modality]
    assert torch.equal(getattr(together, field)[1][:length], getattr(one, field)[0][:length])
    assert not torch.equal(getattr(together, field)[:, : getattr(whole, field).shape[1]], getattr(whole, field))
    assert torch.equal(together.present, whole.present) and alone.sample_ids == having.sample_ids
    for other in {"ts", "img", "note_tok"} - {field}:
        assert torch.equal(getattr(together, other), getattr(whole, other))
    if modality == "note":
        assert (together.visible[:, 2] == together.note_len + 1).all()
        assert (together.note_len >= 1).all()
    keys = sample_keys(having.sample_ids)
    assert not np.array_equal(uniform(keys, 8, seed=0), uniform(keys, 8, seed=1))


def test_draws_are_uniform():
    drawn = uniform(sample_keys([str(number) for number in range(400)]), 100, seed=2)
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert [((drawn >= low) & (drawn < low + 0.1)).mean() for low in np.arange(0, 1, 0.1)] == pytest.approx(
        [0.1] * 10, abs=0.01
    )


def test_severity_counts_the_measurements_of_the_last_day(data):
    counts = [data[row].series[-24:, N_VALUES:].sum().item() for row in range(len(data))]
    ranks = severity_ranks(data)
    for row, count in enumerate(counts):
        below, equal = sum(other < count for other in counts), sum(other == count for other in counts)
        assert ranks[row] == pytest.approx((below + equal / 2) / len(counts))
    without = data.without("time_series")
    assert (severity_ranks(without) == 0.5).all()


@pytest.mark.parametrize("rate", DROP_RATES)
def test_sicker_patients_lose_more_and_the_mean_is_the_rate(rate):
    ranks = (np.arange(2000) + 0.5) / 2000
    rates = loss_rates(ranks, rate)
    assert rates.mean() == pytest.approx(rate, abs=0.01)
    assert (np.diff(rates) >= 0).all()
    kept = drop_modalities(np.ones((2000, 3), bool), rates[:, None], seed=1)
    assert kept.any(axis=1).all()
    if rate:
        assert kept[:1000].mean() > kept[1000:].mean()
        higher = drop_modalities(np.ones((2000, 3), bool), loss_rates(ranks, min(1.0, rate + 0.1))[:, None], seed=1)
        assert not (higher & ~kept).any()


def test_a_constant_answer():
    labels = np.array([0, 0, 1, 0, 1])
    assert constant_answer("readmission", labels) == {"auroc": 0.5, "auprc": 0.4, "average_precision": 0.4}
    classes = np.array([2, 2, 2, 0])
    guess = np.eye(10)[np.full(4, 2)]
    assert constant_answer("length_of_stay", classes) == compute("length_of_stay", classes, guess)
    assert constant_answer("phenotyping", np.eye(25)) == {"macro_auroc": 0.5, "micro_auroc": 0.5}
    assert np.isnan(constant_answer("readmission", np.zeros(3))["auroc"])
