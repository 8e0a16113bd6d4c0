"""The paper's figures 1, 4 and 7 and the training curves, from cohorts and runs.

In: `Results`. Out: matplotlib figures by name, drawn inside `style.house_style`; a figure whose inputs are absent is
None. Figures 5 and 6 need tables of the analyses and are drawn in `inside.py`.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from flexcare_data.tasks import TASKS
from flexcare_model.report.figures.style import COLOURS, PAGE, house_style, new_figure, task_marker
from flexcare_model.report.numbers.methods import JOINT, Method, ablations, bar, reference
from flexcare_model.report.numbers.results import METRIC_TITLES, Results, tasks_in, tasks_text
from flexcare_model.report.numbers.suppression import is_small
from flexcare_model.report.numbers.tables import MODALITIES, summarise

MOST_MARKED = 10
"""Up to this number of epochs, figure 7 marks every evaluation; above it, only those after the task itself."""


def labels_per_sample(results: Results, *, below: int) -> Figure | None:
    """Figure 1b: number of compared tasks with a label, per episode.

    An episode is a hospital admission with an ICU stay or, outside of such an admission, a radiograph study.
    """
    asked = [
        cohort.select(episode=_episode(), task=pl.lit(name)).unique()
        for name, cohort in results.cohorts.items()
        if name in results.compared_tasks
    ]
    if not asked:
        return None
    per_episode = pl.concat(asked).group_by("episode").agg(pl.col("task").n_unique())
    sizes = dict(per_episode.group_by("task").len().rows())
    numbers = list(range(1, len(results.compared_tasks) + 1))
    with house_style():
        figure = new_figure(PAGE / 2, 2.4)
        axes = figure.subplots()
        _count_bars(axes, [str(number) for number in numbers], [sizes.get(number, 0) for number in numbers], below)
        axes.set(xlabel="tasks with a label", ylabel="episodes", title="Labels per episode")
    return figure


def _episode() -> pl.Expr:
    return (
        pl.when(pl.col("hadm_id").is_not_null())
        .then(pl.lit("a") + pl.col("hadm_id").cast(pl.String))
        .otherwise(pl.lit("s") + pl.col("sample_id"))
    )


def modalities_per_sample(results: Results, *, below: int) -> Figure | None:
    """Figure 1c: samples of the compared tasks by number of modalities, split by which ones they are."""
    cohorts = [cohort for name, cohort in results.cohorts.items() if name in results.compared_tasks]
    if not cohorts:
        return None
    columns = list(MODALITIES.values())
    present = pl.concat([cohort.select(pl.col(column).is_not_null() for column in columns) for cohort in cohorts])
    sizes = {row[:-1]: row[-1] for row in present.group_by(columns).len().rows()}
    titles = {"time_series": "series", "image": "image", "note": "note"}
    with house_style():
        figure = new_figure(PAGE / 2, 2.4)
        axes = figure.subplots()
        names, counts, colours = [], [], []
        for number in (1, 2, 3):
            for chosen in combinations(MODALITIES, number):
                names.append(" + ".join(titles[modality] for modality in chosen))
                counts.append(sizes.get(tuple(modality in chosen for modality in MODALITIES), 0))
                colours.append(COLOURS[number - 1])
        _count_bars(axes, names, counts, below, colours=colours, horizontal=True)
        axes.set(xlabel=f"samples of {tasks_text(len(results.compared_tasks))}", title="Modalities per sample")
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
    return figure


def _count_bars(
    axes: Axes,
    names: list[str],
    counts: list[int],
    below: int,
    *,
    colours: list[str] | None = None,
    horizontal: bool = False,
) -> None:
    """Bars of counts; a small count gets no bar, only its bound."""
    shown = [0 if is_small(count, below) else count for count in counts]
    texts = [f"<{below}" if is_small(count, below) else f"{count:,}" for count in counts]
    place = np.arange(len(names))
    if horizontal:
        bars = axes.barh(place, shown, color=colours or COLOURS[0], height=0.7)
        axes.set_yticks(place, names)
        axes.invert_yaxis()
        axes.margins(x=0.18)
    else:
        bars = axes.bar(place, shown, color=colours or COLOURS[0], width=0.7)
        axes.set_xticks(place, names)
        axes.margins(y=0.12)
    axes.bar_label(bars, texts, padding=2, fontsize=6.5)


def ablation(results: Results) -> Figure | None:
    """Figure 4: both metrics of each task for the ablations, error bars of one standard deviation over seeds."""
    found = _found(results)
    variants = [method for method in ablations() if _has(found, method)]
    if not variants:
        return None
    tasks = results.compared_tasks
    looks = [bar(method) for method in variants]
    with house_style():
        figure = new_figure(PAGE, 4.0)
        grid = figure.subplots(2, len(tasks))
        for column, name in enumerate(tasks):
            for row, metric in enumerate(TASKS[name].metrics):
                axes = grid[row][column]
                values = [found.get((m.model, m.experiment, name, metric)) for m in variants]
                means = np.array([np.nan if value is None else value[0] for value in values])
                spread = np.array([0.0 if value is None or value[1] is None else value[1] for value in values])
                for position, (mean, error) in enumerate(zip(means, spread, strict=True)):
                    if np.isfinite(mean):
                        axes.bar(
                            position, mean, yerr=error or None, width=0.8, color=looks[position][0], capsize=1.5,
                            hatch=looks[position][1], edgecolor="white", linewidth=0.4,
                            error_kw={"linewidth": 0.8, "ecolor": "#555555"},
                        )  # fmt: skip
                axes.set_xticks([])
                axes.set_title(f"{TASKS[name].abbreviation}\n{METRIC_TITLES[metric]}", fontsize=7)
                axes.tick_params(axis="y", labelsize=6)
                if np.isfinite(means).any():
                    axes.set_ylim(*_zoom(means, spread))
        handles = [Patch(facecolor=colour, hatch=hatch, edgecolor="white") for colour, hatch in looks]
        figure.legend(
            handles, [method.title for method in variants], loc="outside lower center", ncols=min(5, len(handles))
        )
    return figure


def _zoom(means: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """Limits that make differences visible: not from 0, with room for the error bars."""
    low, high = np.nanmin(means - spread), np.nanmax(means + spread)
    room = max(0.15 * (high - low), 0.01)
    return max(0.0, low - 3 * room), min(1.02, high + room)


def _found(results: Results) -> dict[tuple[str, str, str, str], tuple[float, float | None]]:
    return {
        (row["model"], row["experiment"], row["task"], row["metric"]): (row["mean"], row["std"])
        for row in summarise(results.scores).to_dicts()
    }


def _has(found: dict, method: Method) -> bool:
    return any(key[:2] == (method.model, method.experiment) for key in found)


def interaction(results: Results) -> Figure | None:
    """Figure 7: test metrics of every task after each task of every epoch, mean over seeds.

    Needs a training with option ``--interaction`` (phases ``after_<task>`` in its history), below
    ``analysis/<model>/<experiment>/seed<k>/interaction``, as it tests every task after every task.
    """
    model, experiment = reference().model, reference().experiment
    histories = [run.history for run in results.runs_of(model, experiment)]
    folder = results.root / "analysis" / model / experiment
    histories += [pl.read_parquet(path) for path in sorted(folder.glob("seed*/interaction/history.parquet"))]
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


def training_curves(results: Results, *, model: str, experiments: tuple[str, ...]) -> Figure | None:
    """Training and validation loss per epoch, a panel per task and setting, one pair of lines per seed.

    Drawn relative to the first epoch, as the training loss is a mean over batches of the whole loss and the validation
    loss a sum of the prediction loss.
    """
    panels: dict[tuple[str, str], list[pl.DataFrame]] = {}
    for experiment in experiments:
        for run in results.runs_of(model, experiment):
            history = run.history
            if history is None:
                continue
            for name in (name for name in TASKS if name in set(history["task"])):
                setting = "" if experiment in TASKS or experiment == JOINT else experiment.removeprefix("drg_")
                panels.setdefault((name, setting), []).append(history.filter(pl.col("task") == name))
    if not panels:
        return None
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    with house_style():
        height = 1.75 * lines + 0.35
        # Fixed margins: there are many of these figures, and a layout solver would take most of the page's time.
        figure = Figure(figsize=(PAGE if columns > 1 else PAGE / 2, height))
        figure.subplots_adjust(0.08, 0.62 / height, 0.99, 1 - 0.25 / height, wspace=0.25, hspace=0.55)
        grid = np.atleast_1d(figure.subplots(lines, columns)).flatten()
        for axes, ((name, setting), histories) in zip(grid, panels.items(), strict=False):
            for history in histories:
                _loss_lines(axes, history)
            title = f"{TASKS[name].abbreviation} {setting.replace('pct', ' %').replace('_', ', ')}".strip()
            axes.set(title=title, xlabel="epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        handles = [Line2D([], [], color=COLOURS[i], linestyle=("-", "--")[i]) for i in range(2)]
        figure.legend(handles, ["train", "validation"], loc="lower center", ncols=2)
    return figure


def _loss_lines(axes: Axes, history: pl.DataFrame) -> None:
    for position, phase in enumerate(("train", "val")):
        part = history.filter(pl.col("phase") == phase).drop_nulls("loss").sort("epoch")
        if part.height:
            marker = "o" if part.height == 1 else None
            style = ("-", "--")[position]
            relative = part["loss"] / part["loss"][0]
            axes.plot(part["epoch"], relative, color=COLOURS[position], linestyle=style, marker=marker, alpha=0.85)
