"""Scores with lost data, from the analyses `modalities` of the runs of table 3.

In: `analysis/<model>/<experiment>/seed<k>/modalities.parquet` of `Results`. Out: a figure; None without an analysis.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.method_style import line_style
from flexcare_model.report.figures.style import PAGE, house_style, new_figure
from flexcare_model.report.numbers.contributions import LOSSES, losses
from flexcare_model.report.numbers.methods import compared
from flexcare_model.report.numbers.results import METRIC_TITLES, Results, tasks_in

KINDS = {
    "informative": "modalities,\nmore of the sicker",
    "inside_time_series": "hours of\nthe series",
    "inside_image": "patches of\nthe image",
    "inside_note": "tokens of\nthe note",
}
"""Kinds of loss that are drawn, by row; `missing_modalities` draws the random loss of modalities."""
assert set(KINDS) < set(LOSSES)


def lost_data(results: Results, *, below: int) -> Figure | None:
    """First metric of each task against the share that is lost, a row per kind of loss and a line per method."""
    frame = losses(results, below=below)
    if frame is None or not frame.height:
        return None
    tasks = tasks_in(frame)
    methods = [method for method in compared() if method.title in set(frame["method"])]
    with house_style():
        figure = new_figure(PAGE, 1.35 * len(KINDS) + 0.5)
        grid = figure.subplots(len(KINDS), len(tasks), squeeze=False, sharex=True)
        for column, task in enumerate(tasks):
            metric = TASKS[task].metrics[0]
            for row, (kind, title) in enumerate(KINDS.items()):
                axes = grid[row][column]
                part = frame.filter(task=task, metric=metric, kind=kind).drop_nulls("value").sort("rate")
                for method in methods:
                    own = part.filter(method=method.title)
                    axes.plot(100 * own["rate"], own["value"], **line_style(method))
                if not part.height:
                    axes.text(
                        0.5, 0.5, "too few\npatients", ha="center", va="center", transform=axes.transAxes, fontsize=6
                    )
                    axes.set_yticks([])
                if row == 0:
                    axes.set_title(f"{TASKS[task].abbreviation}\n{METRIC_TITLES[metric]}", fontsize=7)
                if column == 0:
                    axes.set_ylabel(title, fontsize=6.5)
                if row == len(KINDS) - 1:
                    axes.set_xlabel("lost, %", fontsize=6.5)
                axes.set_xticks([0, 40, 80])
                axes.tick_params(labelsize=6)
        handles = [Line2D([], [], **line_style(method)) for method in methods]
        figure.legend(
            handles, [method.title for method in methods], loc="outside lower center", ncols=min(7, len(handles))
        )
    return figure
