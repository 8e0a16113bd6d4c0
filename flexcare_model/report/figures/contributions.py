"""Contribution of each modality (Shapley values), from the analyses `modalities` of the runs of table 3.

In: `analysis/<model>/<experiment>/seed<k>/modalities.parquet` of `Results`. Out: a figure; None without an analysis.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from flexcare_data.modalities import MODALITIES
from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.method_style import line_style
from flexcare_model.report.figures.style import PAGE, house_style, new_figure
from flexcare_model.report.numbers import contributions as numbers
from flexcare_model.report.numbers.methods import compared
from flexcare_model.report.numbers.results import METRIC_TITLES, Results, tasks_in

TITLES = ("series", "image", "note")


def contributions(results: Results, *, below: int) -> Figure | None:
    """Contribution of each modality to the first metric of each task, a bar per method."""
    frame = numbers.contributions(results, below=below)
    if frame is None or not frame.height:
        return None
    tasks = tasks_in(frame)
    methods = [method for method in compared() if method.title in set(frame["method"])]
    lines, width = -(-len(tasks) // 3), 0.8 / len(methods)
    with house_style():
        figure = new_figure(PAGE, 1.8 * lines + 0.4)
        grid = np.atleast_1d(figure.subplots(lines, min(3, len(tasks)))).flatten()
        for axes, task in zip(grid, tasks, strict=False):
            metric = TASKS[task].metrics[0]
            axes.axhline(0, color="#999999", linewidth=0.7)
            for position, method in enumerate(methods):
                rows = frame.filter(task=task, metric=metric, method=method.title).to_dicts()
                added = [np.nan if not rows or rows[0][name] is None else rows[0][name] for name in MODALITIES]
                places = np.arange(len(MODALITIES)) + (position - (len(methods) - 1) / 2) * width
                axes.bar(places, added, width=width, color=line_style(method)["color"])
            axes.set_xticks(range(len(MODALITIES)), TITLES)
            axes.set_title(f"{TASKS[task].abbreviation}: {METRIC_TITLES[metric]}", fontsize=7)
            axes.tick_params(labelsize=6)
        for axes in grid[len(tasks) :]:
            axes.set_visible(False)
        handles = [Patch(color=line_style(method)["color"]) for method in methods]
        figure.legend(
            handles, [method.title for method in methods], loc="outside lower center", ncols=min(7, len(handles))
        )
    return figure
