"""Risk against coverage of selective prediction, from the predictions.

In: selective of `statistics_files`. Out: a figure; None without runs.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.method_style import line_style
from flexcare_model.report.figures.style import PAGE, house_style, new_figure
from flexcare_model.report.numbers.methods import compared
from flexcare_model.report.numbers.results import Results, tasks_in
from flexcare_model.report.numbers.statistics_files import statistic


def selective(results: Results, *, below: int) -> Figure | None:
    """Share of wrong answers against the share of samples that get one, a panel per task and a line per method."""
    frame = statistic(results, "selective", below=below)
    if frame is None or not frame.height:
        return None
    tasks = tasks_in(frame)
    methods = [method for method in compared() if method.title in set(frame["method"])]
    lines = -(-len(tasks) // 3)
    with house_style():
        figure = new_figure(PAGE, 2.0 * lines + 0.4)
        grid = np.atleast_1d(figure.subplots(lines, min(3, len(tasks)))).flatten()
        for axes, task in zip(grid, tasks, strict=False):
            for method in methods:
                part = frame.filter(task=task, method=method.title).drop_nulls("risk").sort("coverage")
                style = line_style(method) | {"markevery": 4}
                axes.plot(100 * part["coverage"], part["risk"], alpha=0.85, **style)
            axes.set(title=TASKS[task].abbreviation, xlabel="coverage, %", ylabel="risk", xlim=(0, 102))
            axes.set_ylim(bottom=0)
        for axes in grid[len(tasks) :]:
            axes.set_visible(False)
        handles = [Line2D([], [], **line_style(method)) for method in methods]
        figure.legend(
            handles, [method.title for method in methods], loc="outside lower center", ncols=min(7, len(handles))
        )
    return figure
