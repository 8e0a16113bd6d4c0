"""Figure 7: test metrics of all tasks after each task of each epoch, from a run with ``--interaction``.

In: `analysis/<model>/<experiment>/seed<k>/interaction/history.parquet` of `Results`. Out: a figure; None without one.
"""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.style import COLOURS, PAGE, house_style, new_figure, task_marker
from flexcare_model.report.numbers.methods import reference
from flexcare_model.report.numbers.results import METRIC_TITLES, Results, tasks_in

MOST_MARKED = 10
"""Up to this number of epochs, every evaluation is marked; above it, only those after the task itself."""


def interaction(results: Results) -> Figure | None:
    """Figure 7: test metrics of every task after each task of every epoch, mean over seeds.

    Needs a run with ``--interaction``: its history has phases ``after_<task>``.
    """
    model, experiment = reference().model, reference().experiment
    histories = [run.history for run in results.runs_of(model, experiment)]
    separate = results.analysis_files(model, experiment, "interaction/history.parquet")
    histories += [pl.read_parquet(path) for path in separate]
    curves = []
    for history in histories:
        rows = None if history is None else history.filter(pl.col("phase").str.starts_with("after_"))
        if rows is not None and rows.height:
            curves.append(rows.with_columns(trained=pl.col("phase").str.strip_prefix("after_")))
    if not curves:
        return None
    frame = pl.concat(curves, how="diagonal_relaxed")
    order = tasks_in(frame.select(task="trained"))
    step = (
        pl.col("epoch") - 1 + (pl.col("trained").replace_strict({t: i + 1 for i, t in enumerate(order)})) / len(order)
    )
    frame = frame.with_columns(step=step)
    epochs = int(frame.select(pl.col("epoch").max()).item())
    with house_style():
        lines = max(2, -(-len(order) // 3))
        figure = new_figure(PAGE, 2.1 * lines)
        grid = figure.subplots(lines, 3)
        for axes, name in zip(grid.flat, order, strict=False):
            part = frame.filter(pl.col("task") == name)
            for position, metric in enumerate(TASKS[name].metrics):
                if metric not in part.columns:
                    continue
                curve = part.group_by("step", "trained").agg(pl.col(metric).mean()).sort("step")
                axes.plot(curve["step"], curve[metric], color=COLOURS[position], label=METRIC_TITLES[metric])
                for index, trained in enumerate(order):
                    if trained != name and epochs > MOST_MARKED:
                        continue
                    points = curve.filter(pl.col("trained") == trained)
                    axes.plot(
                        points["step"], points[metric], linestyle="", marker=task_marker(index), markersize=3,
                        color=COLOURS[position], markerfacecolor=COLOURS[position] if trained == name else "white",
                    )  # fmt: skip
            axes.set(title=f"{TASKS[name].abbreviation}", xlabel="epoch", xlim=(0, epochs * 1.02))
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend(loc="best")
        handles = [_marker(task_marker(index)) for index in range(len(order))]
        names = [f"after {TASKS[name].abbreviation}" for name in order]
        figure.legend(
            handles,
            names,
            loc="outside lower center",
            ncols=min(6, len(handles)),
            title="filled: after the task itself",
        )
    return figure


def _marker(shape: str):
    return Line2D([], [], linestyle="", marker=shape, color="#444444", markerfacecolor="white")
