"""Reliability of each label of the multi-label tasks, from the predictions.

In: label_curves and label_calibration of `statistics_files`. Out: a figure; None without them.
"""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.method_style import line_style
from flexcare_model.report.figures.style import PAGE, house_style, new_figure
from flexcare_model.report.numbers.methods import compared
from flexcare_model.report.numbers.results import Results, tasks_in
from flexcare_model.report.numbers.statistics_files import statistic

COLUMNS = 6


def label_calibration(results: Results, *, below: int) -> Figure | None:
    """Observed share against mean score, a panel per label, of the last method of table 3; dotted: perfect."""
    curves, labels = (statistic(results, name, below=below) for name in ("label_curves", "label_calibration"))
    if curves is None or labels is None:
        return None
    multilabel = [task for task in tasks_in(labels) if TASKS[task].kind == "multilabel"]
    methods = [method for method in compared() if method.title in set(labels["method"])]
    if not multilabel or not methods:
        return None
    method = methods[-1]
    panels = [(task, label) for task in multilabel for label in TASKS[task].labels]
    lines = -(-len(panels) // COLUMNS)
    with house_style():
        figure = new_figure(PAGE, 1.32 * lines + 0.3)
        grid = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True, sharey=True).flatten()
        for axes, (task, label) in zip(grid, panels, strict=False):
            part = curves.filter(task=task, label=label, method=method.title).drop_nulls("observed").sort("bin")
            axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.7, linestyle=":")
            axes.plot(
                part["mean_score"], part["observed"], **line_style(method) | {"linewidth": 0.9, "markersize": 1.8}
            )
            row = labels.filter(task=task, label=label, method=method.title).to_dicts()
            _panel(axes, f"{TASKS[task].abbreviation}: {label}", row[0] if row else None)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(panels) - COLUMNS) : len(panels)]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel(f"mean score of {method.title}", fontsize=7)
        figure.supylabel("observed share", fontsize=7)
    return figure


def _panel(axes: Axes, title: str, row: dict | None) -> None:
    text = "\n".join(textwrap.wrap(title.replace("_", " "), 24, max_lines=2, placeholder=" …"))
    axes.set_title(text, fontsize=5, fontweight="normal")
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes.tick_params(labelsize=5)
    if row is None or not row["is_shown"]:
        note = "too few patients"
    elif row["slope"] is None:
        note = "slope not defined"
    else:
        note = f"slope {row['slope']:.2f}\nECE {row['ece']:.3f}"
    axes.text(0.04, 0.96, note, fontsize=5, va="top", transform=axes.transAxes)
