"""Gaps between groups of patients, from the files of the command `statistics`.

In: `analysis/statistics/gaps.parquet` of `Results`. Out: a figure; None without this file.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.method_style import line_style
from flexcare_model.report.figures.style import PAGE, house_style, new_figure
from flexcare_model.report.numbers.gaps import DIMENSIONS, INTERCEPT
from flexcare_model.report.numbers.methods import compared
from flexcare_model.report.numbers.results import METRIC_TITLES, Results, tasks_in


def gaps(results: Results) -> Figure | None:
    """Gaps of each task and metric by dimension: of the last method of table 3 with their intervals, of the others."""
    frame = results.parquet("analysis/statistics/gaps.parquet")
    if frame is None or not frame.height:
        return None
    methods = [method for method in compared() if method.title in set(frame["method"])]
    panels = [
        (task, metric)
        for is_intercept in (False, True)
        for task in tasks_in(frame)
        for metric in frame.filter(task=task)["metric"].unique(maintain_order=True)
        if (metric == INTERCEPT) == is_intercept
    ]
    lines = -(-len(panels) // 3)
    with house_style():
        figure = new_figure(PAGE, 1.65 * lines + 0.4)
        grid = figure.subplots(lines, 3, squeeze=False, sharey=True).flatten()
        for axes, (task, metric) in zip(grid, panels, strict=False):
            axes.axvline(0, color="#999999", linewidth=0.7)
            for method in methods:
                rows = frame.filter(task=task, metric=metric, method=method.title).to_dicts()
                _points(axes, rows, line_style(method), is_last=method == methods[-1])
            if (
                frame.filter(task=task, metric=metric)["gap"].null_count()
                == frame.filter(task=task, metric=metric).height
            ):
                axes.text(0.5, 0.5, "too few patients", ha="center", va="center", transform=axes.transAxes, fontsize=6)
                axes.set_xticks([])
            title = "intercept" if metric == INTERCEPT else METRIC_TITLES[metric]
            axes.set_title(f"{TASKS[task].abbreviation}: gap of {title}", fontsize=7)
            axes.set_yticks(range(len(DIMENSIONS)), list(DIMENSIONS))
            axes.set_ylim(len(DIMENSIONS) - 0.5, -0.5)
            axes.grid(axis="x")
            axes.grid(visible=False, axis="y")
            axes.tick_params(labelsize=6)
            if axes.get_xticks().size:
                axes.locator_params(axis="x", nbins=5)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        handles = [Line2D([], [], **line_style(method) | {"linestyle": ""}) for method in methods]
        figure.legend(
            handles, [method.title for method in methods], loc="outside lower center", ncols=min(7, len(handles))
        )
    return figure


def _points(axes: Axes, rows: list[dict], style: dict, *, is_last: bool) -> None:
    place = {name: position for position, name in enumerate(DIMENSIONS)}
    for row in rows:
        if row["gap"] is None:
            continue
        y = place[row["dimension"]]
        if not is_last:
            axes.plot(row["gap"], y + 0.16, **style | {"linestyle": "", "alpha": 0.6, "markersize": 2.4})
            continue
        axes.plot(row["gap"], y - 0.12, **style | {"linestyle": "", "zorder": 3})
        if row["low"] is not None:
            bounds = np.array([row["low"], row["high"]])
            axes.plot(bounds, [y - 0.12] * 2, color=style["color"], linewidth=1.2, marker="|", markersize=4)
