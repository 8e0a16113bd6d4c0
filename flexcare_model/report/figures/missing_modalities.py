"""Scores with fewer modalities, from the analyses `modalities` of the runs of table 3.

In: `analysis/<model>/<experiment>/seed<k>/modalities.parquet` of `Results`. Out: a figure; None without an analysis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flexcare_data.modalities import COMBINATIONS
from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.method_style import line_style
from flexcare_model.report.figures.style import PAGE, house_style, new_figure
from flexcare_model.report.numbers.contributions import collected_modalities
from flexcare_model.report.numbers.methods import compared
from flexcare_model.report.numbers.results import METRIC_TITLES, Results, tasks_in


def missing_modalities(results: Results, *, below: int) -> Figure | None:
    """First metric of each task under random loss of modalities, and with each subset of them; mean over seeds.

    A panel with samples of fewer than ``below`` patients stays empty.
    """
    frame = collected_modalities(results)
    if frame is None:
        return None
    tasks = tasks_in(frame)
    methods = [method for method in compared() if method.title in set(frame["method"])]
    with house_style():
        figure = new_figure(PAGE, 4.6)
        grid = figure.subplots(2, len(tasks), squeeze=False)
        for column, task in enumerate(tasks):
            metric = TASKS[task].metrics[0]
            upper, lower = grid[0][column], grid[1][column]
            part = frame.filter(task=task, metric=metric)
            for axes, kind in ((upper, "drop_rate"), (lower, "subset")):
                patients = part.filter(kind=kind).select(pl.col("n_patients").max()).item() or 0
                if patients < max(below, 1):
                    text = "no sample\nhas all three" if patients == 0 else f"fewer than\n{below} patients"
                    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, fontsize=6)
                    axes.set_yticks([])
                    continue
                for position, method in enumerate(methods):
                    own = part.filter(kind=kind, method=method.title)
                    draw = _drop_curve if kind == "drop_rate" else _subset_points
                    draw(axes, own, line_style(method), position - (len(methods) - 1) / 2)
            upper.set_title(f"{TASKS[task].abbreviation}\n{METRIC_TITLES[metric]}", fontsize=7)
            upper.set_xlabel("modalities lost, %", fontsize=6.5)
            upper.set_xticks([0, 40, 80])
            lower.set_xticks(range(len(COMBINATIONS)), COMBINATIONS, rotation=90)
            lower.set_xlim(-0.6, len(COMBINATIONS) - 0.4)
            # Lines between the subsets, as the points of one subset are side by side.
            lower.set_xticks([place + 0.5 for place in range(len(COMBINATIONS) - 1)], minor=True)
            lower.tick_params(which="minor", length=0)
            lower.grid(axis="x", which="minor")
            for axes in (upper, lower):
                axes.tick_params(labelsize=6)
        handles = [Line2D([], [], **line_style(method)) for method in methods]
        figure.legend(
            handles, [method.title for method in methods], loc="outside lower center", ncols=min(7, len(handles))
        )
    return figure


def _drop_curve(axes: Axes, own: pl.DataFrame, drawn: dict[str, Any], offset: float) -> None:
    curve = own.sort("rate")
    axes.plot(100 * curve["rate"], curve["value"], **drawn)


def _subset_points(axes: Axes, own: pl.DataFrame, drawn: dict[str, Any], offset: float) -> None:
    found = dict(own.select("kept", "value").rows())
    places = [place + 0.12 * offset for place in range(len(COMBINATIONS))]
    axes.plot(
        places, [found.get(name, np.nan) for name in COMBINATIONS], **drawn | {"linestyle": "", "markersize": 2.2}
    )
