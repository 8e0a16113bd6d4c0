"""Figures 5 and 6 of the paper and the one on missing modalities, from what `flexcare_model.analysis` wrote.

In: `{output}/analysis/<model>/<experiment>/seed<k>/{representations,experts,modalities}.parquet`. Out: figures; None
where an input is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flexcare_data.tasks import TASKS
from flexcare_model.report.results import METRIC_TITLES, SIX_TASKS, Results, read_parquet
from flexcare_model.report.style import COLOURS, MARKERS, PAGE, SEQUENTIAL, house_style, new_figure
from flexcare_model.report.tables import MODEL_TITLES

COMBINATIONS = ("TIN", "TI", "TN", "IN", "T", "I", "N")
SUBSET_ORDER = ("TIN", "TI", "TN", "IN", "T", "I", "N")


def analysis_files(results: Results, model: str, experiment: str, name: str) -> list[Path]:
    """Files of one kind over seeds, sorted by seed."""
    found = (results.root / "analysis" / model / experiment).glob(f"seed*/{name}.parquet")
    return sorted(found, key=lambda path: int(path.parent.name.removeprefix("seed")))


def representations(results: Results) -> Figure | None:
    """Figure 5: t-SNE of the representation without and with task token, of the first seed that both have."""
    sides = [("without task token", "flexcare_no_task_token"), ("with task token", "flexcare")]
    frames = []
    for title, model in sides:
        files = analysis_files(results, model, "six_tasks", "representations")
        if files:
            frames.append((title, pl.read_parquet(files[0])))
    if not frames:
        return None
    from flexcare_model.analysis import separation

    with house_style():
        figure = new_figure(PAGE if len(frames) == 2 else PAGE / 2, 3.6)
        panels = np.atleast_1d(figure.subplots(1, len(frames)))
        for letter, axes, (title, frame) in zip("ab", panels, frames, strict=False):
            numbers = separation(np.array(frame["rep"].to_list()), frame["task"].to_list())
            for position, task in enumerate(SIX_TASKS):
                part = frame.filter(task=task)
                axes.scatter(
                    part["x"], part["y"], s=4, color=COLOURS[position], linewidths=0, alpha=0.7, rasterized=True
                )
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            axes.set_title(
                f"({letter}) {title}\nsilhouette {numbers['silhouette']:.3f}, 5-NN accuracy "
                f"{numbers['knn_accuracy']:.3f}",
                fontsize=7.5,
            )
        handles = [panels[0].scatter([], [], s=14, color=COLOURS[position]) for position in range(len(SIX_TASKS))]
        names = [TASKS[task].abbreviation for task in SIX_TASKS]
        figure.legend(handles, names, loc="outside lower center", ncols=6)
    return figure


def expert_choice(results: Results) -> Figure | None:
    """Figure 6: how often each expert is chosen, by task and by modality combination, seeds pooled.

    Experts have no order of their own, so seeds could only be pooled after matching them: the first seed is drawn.
    """
    files = analysis_files(results, "flexcare", "six_tasks", "experts")
    frame = read_parquet(files[0]) if files else None
    if frame is None or frame.height == 0:
        return None
    tasks = [task for task in SIX_TASKS if task in set(frame["task"])]
    names = [name for name in COMBINATIONS if name in set(frame["combination"])]
    with house_style():
        figure = new_figure(PAGE, 2.9)
        left, right = figure.subplots(1, 2)
        by_task = shares(frame, "task", tasks)
        by_combination = shares(frame, "combination", names)
        top = float(np.nanmax([np.nanmax(by_task), np.nanmax(by_combination)]))
        _heat(left, by_task, [TASKS[task].abbreviation for task in tasks], "(a) by task", top)
        image = _heat(right, by_combination, names, "(b) by modality combination", top)
        bar = figure.colorbar(image, ax=[left, right], shrink=0.8, label="share of choices")
        bar.outline.set_visible(False)
    return figure


def shares(frame: pl.DataFrame, key: str, order: Sequence[str]) -> np.ndarray:
    """Rows of ``order`` by expert, each summing to 1 (NaN for a row without any choice)."""
    experts = frame["expert"].max() + 1
    matrix = np.zeros((len(order), experts))
    place = {name: index for index, name in enumerate(order)}
    for name, expert, count in frame.group_by(key, "expert").agg(pl.col("chosen").sum()).rows():
        if name in place:
            matrix[place[name], expert] = count
    total = matrix.sum(axis=1, keepdims=True)
    return np.divide(matrix, total, out=np.full_like(matrix, np.nan), where=total > 0)


def _heat(axes: Axes, matrix: np.ndarray, names: Sequence[str], title: str, top: float):
    image = axes.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=top, aspect="auto")
    axes.set_xticks(range(matrix.shape[1]), [str(expert + 1) for expert in range(matrix.shape[1])])
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="expert", title=title)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            colour = "black" if value > 0.5 * top else "white"
            axes.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=5.5, color=colour)
    return image


def missing_modalities(results: Results) -> Figure | None:
    """First metric of each task under random loss of modalities, and with each subset of them; mean over seeds."""
    frame = collected_modalities(results)
    if frame is None:
        return None
    tasks = [task for task in SIX_TASKS if task in set(frame["task"])]
    models = [name for name in MODEL_TITLES if name in set(frame["model"])]
    with house_style():
        figure = new_figure(PAGE, 4.4)
        grid = figure.subplots(2, len(tasks), squeeze=False)
        for column, task in enumerate(tasks):
            metric = TASKS[task].metrics[0]
            upper, lower = grid[0][column], grid[1][column]
            for position, model in enumerate(models):
                look = {
                    "color": COLOURS[position % len(COLOURS)],
                    "marker": MARKERS[position % len(MARKERS)],
                    "markersize": 3,
                    "linewidth": 1.6 if model == "flexcare" else 0.9,
                }
                part = frame.filter(task=task, metric=metric, model=model)
                curve = part.filter(kind="drop_rate").sort("rate")
                upper.plot(100 * curve["rate"], curve["value"], **look)
                subsets = dict(part.filter(kind="subset").select("kept", "value").rows())
                heights = [subsets.get(name, np.nan) for name in SUBSET_ORDER]
                lower.plot(range(len(SUBSET_ORDER)), heights, **(look | {"linestyle": ""}))
            upper.set_title(f"{TASKS[task].abbreviation}\n{METRIC_TITLES[metric]}", fontsize=7)
            upper.set_xlabel("modalities lost, %", fontsize=6.5)
            lower.set_xticks(range(len(SUBSET_ORDER)), SUBSET_ORDER, rotation=90)
            lower.grid(axis="x")
            if not np.isfinite([line.get_ydata() for line in lower.lines]).any():
                lower.text(0.5, 0.5, "no sample\nhas all three", ha="center", transform=lower.transAxes, fontsize=6)
            for axes in (upper, lower):
                axes.tick_params(labelsize=6)
        handles = [upper.plot([], [], color=COLOURS[i], marker=MARKERS[i % 7])[0] for i in range(len(models))]
        names = [MODEL_TITLES[model] for model in models]
        figure.legend(handles, names, loc="outside lower center", ncols=min(6, len(models)))
    return figure


def collected_modalities(results: Results) -> pl.DataFrame | None:
    """Scores with fewer modalities of every analysed run of table 3: a mean over seeds per model and condition."""
    frames = []
    for path in sorted((results.root / "analysis").glob("*/*/seed*/modalities.parquet")):
        model, experiment = path.parts[-4], path.parts[-3]
        # The single-task runs of FlexCare are another method; the models of the figure are one per line.
        if experiment == "six_tasks" if model == "flexcare" else experiment in TASKS:
            frames.append(pl.read_parquet(path).with_columns(model=pl.lit(model)))
    if not frames:
        return None
    keys = ["model", "task", "kind", "kept", "rate", "metric"]
    return pl.concat(frames).group_by(keys).agg(pl.col("value").mean(), pl.col("n").first()).sort(keys)
