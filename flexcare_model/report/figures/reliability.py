"""Reliability curves: observed share against mean score, from the files of the command `statistics`.

In: `analysis/statistics/{curves,calibration}.parquet` of `Results`. Out: a figure; None without these files.
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


def reliability(results: Results) -> Figure | None:
    """Observed share against mean score, a panel per task and a line per method; dotted: perfect calibration."""
    curves, summaries = (results.parquet(f"analysis/statistics/{name}.parquet") for name in ("curves", "calibration"))
    if curves is None or summaries is None or curves.height == 0:
        return None
    tasks = tasks_in(curves)
    methods = [method for method in compared() if method.title in set(curves["method"])]
    errors = {(row["method"], row["task"]): row["ece"] for row in summaries.to_dicts()}
    last = methods[-1].title
    with house_style():
        figure = new_figure(PAGE, 2.35 * -(-len(tasks) // 3) + 0.4)
        grid = np.atleast_1d(figure.subplots(-(-len(tasks) // 3), min(3, len(tasks)))).flatten()
        for axes, task in zip(grid, tasks, strict=False):
            axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=":")
            for method in methods:
                part = curves.filter(task=task, method=method.title).drop_nulls("observed").sort("bin")
                axes.plot(part["mean_score"], part["observed"], alpha=0.85, **line_style(method))
            error = errors.get((last, task))
            note = "" if error is None else f"  ({last}: ECE {error:.3f})"
            axes.set(title=TASKS[task].abbreviation + note, xlim=(0, 1), ylim=(0, 1))
            axes.set(xlabel="mean score", ylabel="observed share")
            axes.set_aspect("equal")
        for axes in grid[len(tasks) :]:
            axes.set_visible(False)
        handles = [Line2D([], [], **line_style(method)) for method in methods]
        figure.legend(
            handles, [method.title for method in methods], loc="outside lower center", ncols=min(7, len(handles))
        )
    return figure
