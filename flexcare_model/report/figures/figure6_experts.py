"""Figure 6: which experts are chosen, by task and by modality combination, from the analysis `inside`.

In: `analysis/<model>/<experiment>/seed<k>/experts.parquet` of `Results`. Out: a figure; None without an analysis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flexcare_data.modalities import COMBINATIONS
from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.style import PAGE, SEQUENTIAL, house_style, new_figure
from flexcare_model.report.numbers.methods import reference
from flexcare_model.report.numbers.results import Results, read_parquet, tasks_in


def expert_choice(results: Results) -> Figure | None:
    """Figure 6: how often each expert is chosen, by task and by modality combination.

    Experts have no fixed order, so seeds cannot be pooled without matching them; the first seed is drawn.
    """
    files = results.analysis_files(reference().model, reference().experiment, "experts.parquet")
    frame = read_parquet(files[0]) if files else None
    if frame is None or frame.height == 0:
        return None
    tasks = tasks_in(frame)
    names = [name for name in COMBINATIONS if name in set(frame["combination"])]
    with house_style():
        figure = new_figure(PAGE, 2.9)
        left, right = figure.subplots(1, 2)
        by_task = shares(frame, "task", tasks)
        by_combination = shares(frame, "combination", names)
        top = float(np.nanmax([np.nanmax(by_task), np.nanmax(by_combination)]))
        _heat(left, by_task, [TASKS[task].abbreviation for task in tasks], "(a) by task", top)
        image = _heat(right, by_combination, names, "(b) by modality combination", top)
        bar = figure.colorbar(image, ax=[left, right], shrink=0.8, label="share of choices")
        bar.outline.set_visible(False)
    return figure


def shares(frame: pl.DataFrame, key: str, order: Sequence[str]) -> np.ndarray:
    """Rows of ``order`` by expert, each summing to 1 (NaN for a row without any choice)."""
    experts = frame.select(pl.col("expert").max()).item() + 1
    matrix = np.zeros((len(order), experts))
    place = {name: index for index, name in enumerate(order)}
    for name, expert, count in frame.group_by(key, "expert").agg(pl.col("chosen").sum()).rows():
        if name in place:
            matrix[place[name], expert] = count
    total = matrix.sum(axis=1, keepdims=True)
    return np.divide(matrix, total, out=np.full_like(matrix, np.nan), where=total > 0)


def _heat(axes: Axes, matrix: np.ndarray, names: Sequence[str], title: str, top: float):
    image = axes.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=top, aspect="auto")
    axes.set_xticks(range(matrix.shape[1]), [str(expert + 1) for expert in range(matrix.shape[1])])
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="expert", title=title)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            colour = "black" if value > 0.5 * top else "white"
            axes.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=5.5, color=colour)
    return image
