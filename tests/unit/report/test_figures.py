"""Figures: the same bytes for the same numbers, small counts without bars, nothing drawn from nothing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from support.fabricated_results import fabricate_analysis

from flexcare_data.options import PAPER_TASKS
from flexcare_model.report.catalogue import FIGURES
from flexcare_model.report.figures.figure1_cohorts import labels_per_sample, modalities_per_sample
from flexcare_model.report.figures.figure5_representations import representations
from flexcare_model.report.figures.figure6_experts import expert_choice, shares
from flexcare_model.report.figures.figure7_interaction import interaction
from flexcare_model.report.figures.missing_modalities import missing_modalities
from flexcare_model.report.figures.style import png_bytes, svg_bytes
from flexcare_model.report.make import make_figure
from flexcare_model.report.numbers.results import Results


@pytest.fixture(scope="module")
def analysed(tmp_path_factory) -> Results:
    root = tmp_path_factory.mktemp("figures")
    fabricate_analysis(root)
    return Results(root)


def test_the_same_numbers_give_the_same_bytes_without_a_date(results):
    first, second = (labels_per_sample(results, below=10) for _ in range(2))
    assert svg_bytes(first) == svg_bytes(second)
    assert png_bytes(first) == png_bytes(second)
    assert b"<dc:date>" not in svg_bytes(first)


def test_labels_per_episode_are_counted_per_admission(output, results):
    asked: dict[str, set[str]] = {}
    for name in PAPER_TASKS[:-1]:
        for hadm_id in pl.read_parquet(output / f"cohorts/{name}.parquet")["hadm_id"]:
            asked.setdefault(hadm_id, set()).add(name)
    heights = [sum(len(tasks) == number for tasks in asked.values()) for number in range(1, 7)]
    bars = labels_per_sample(results, below=0).axes[0].patches
    assert [bar.get_height() for bar in bars] == heights


def test_a_small_count_has_no_bar(results):
    figure = modalities_per_sample(results, below=10**6)
    axes = figure.axes[0]
    assert all(bar.get_width() == 0 for bar in axes.patches)
    assert "<1000000" in {text.get_text() for text in axes.texts}


def test_expert_shares_by_hand():
    frame = pl.DataFrame(
        {
            "task": ["a", "a", "b", "b"],
            "combination": ["T", "I", "T", "I"],
            "expert": [0, 1, 1, 1],
            "chosen": [3, 1, 2, 2],
        }
    )
    assert shares(frame, "task", ["a", "b"]).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert np.isnan(shares(frame, "task", ["c"])).all()


def test_figures_of_an_analysis_are_drawn(analysed):
    assert len(representations(analysed).axes) == 2
    heat = expert_choice(analysed).axes[0].images[0].get_array()
    assert np.allclose(heat.sum(axis=1), 1)
    # One line per model and task: FlexCare and two baselines.
    assert all(len(axes.lines) >= 3 for axes in missing_modalities(analysed, below=10).axes[:6])


def test_scores_of_few_samples_are_not_drawn(analysed):
    """60 samples have all three modalities, 140 are there: only the panels of the 60 stay empty."""
    figure = missing_modalities(analysed, below=100)
    for upper, lower in zip(figure.axes[:6], figure.axes[6:12], strict=True):
        assert len(upper.lines) >= 3 and len(lower.lines) == 0
        assert [text.get_text() for text in lower.texts] == ["fewer than\n100 patients"]


def test_interaction_is_read_from_its_own_training(tmp_path):
    folder = tmp_path / "analysis/flexcare/six_tasks/seed1/interaction"
    folder.mkdir(parents=True)
    rows = [
        (epoch, f"after_{trained}", task, 0.5 + 0.1 * epoch)
        for epoch in (1, 2)
        for trained in ("readmission", "decompensation")
        for task in ("readmission", "decompensation")
    ]
    pl.DataFrame(rows, schema=["epoch", "phase", "task", "auroc"], orient="row").write_parquet(
        folder / "history.parquet"
    )
    axes = interaction(Results(tmp_path)).axes[0]
    assert np.allclose(axes.lines[0].get_xdata(), [0.5, 1.0, 1.5, 2.0])


def test_nothing_is_drawn_from_nothing(tmp_path):
    for entry in FIGURES.values():
        assert make_figure(entry, Results(tmp_path), below=10) is None, entry.name
