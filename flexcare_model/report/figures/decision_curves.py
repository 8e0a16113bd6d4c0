"""Decision curves of the binary tasks, from the predictions.

In: decisions of `statistics_files`. Out: a figure; None without runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.method_style import line_style
from flexcare_model.report.figures.style import PAGE, house_style, new_figure
from flexcare_model.report.numbers.decisions import TREAT_ALL, TREAT_NONE
from flexcare_model.report.numbers.methods import compared
from flexcare_model.report.numbers.results import Results, tasks_in
from flexcare_model.report.numbers.statistics_files import statistic

REFERENCES: dict[str, dict[str, Any]] = {
    TREAT_ALL: {"color": "#555555", "linestyle": "--", "linewidth": 0.9},
    TREAT_NONE: {"color": "#555555", "linestyle": ":", "linewidth": 0.9},
}


def decision_curves(results: Results, *, below: int) -> Figure | None:
    """Net benefit against the threshold, a panel per binary task and a line per method."""
    frame = statistic(results, "decisions", below=below)
    if frame is None or not frame.height:
        return None
    tasks = tasks_in(frame)
    methods = [method for method in compared() if method.title in set(frame["method"])]
    lines = -(-len(tasks) // 3)
    with house_style():
        figure = new_figure(PAGE, 2.3 * lines + 0.4)
        grid = np.atleast_1d(figure.subplots(lines, min(3, len(tasks)))).flatten()
        for axes, task in zip(grid, tasks, strict=False):
            part = frame.filter(task=task).drop_nulls("net_benefit").sort("threshold")
            for name, style in REFERENCES.items():
                own = part.filter(method=name)
                axes.plot(100 * own["threshold"], own["net_benefit"], **style)
            for method in methods:
                own = part.filter(method=method.title)
                style = line_style(method) | {"markevery": 10}
                axes.plot(100 * own["threshold"], own["net_benefit"], alpha=0.85, **style)
            highest = part["net_benefit"].max()
            axes.set(title=TASKS[task].abbreviation, xlabel="threshold, %", ylabel="net benefit", xlim=(0, 61))
            if isinstance(highest, float) and highest > 0:
                axes.set_ylim(-0.35 * highest, 1.08 * highest)
            else:
                axes.text(0.5, 0.5, "too few patients", ha="center", transform=axes.transAxes, fontsize=6)
        for axes in grid[len(tasks) :]:
            axes.set_visible(False)
        handles = [Line2D([], [], **style) for style in REFERENCES.values()]
        handles += [Line2D([], [], **line_style(method)) for method in methods]
        names = [*REFERENCES, *(method.title for method in methods)]
        figure.legend(handles, names, loc="outside lower center", ncols=min(5, len(handles)))
    return figure
