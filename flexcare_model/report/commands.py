"""Subcommands that turn an output folder into tables, figures and the page.

analyse     a trained run -> analysis/<model>/<experiment>/seed<k>/*.parquet      needs the model
statistics  predictions -> analysis/statistics/*.parquet                          minutes on full data
tables, figures, report, card, compare-protocols                                  seconds
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path

from flexcare_data.store.folders import atomic_write

FIGURES = ("1b", "1c", "4", "5", "6", "7", "missing", "calibration")
TABLES = ("2", "3", "4", "5", "6", "statistics")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommands to the program."""
    _add_analyse(commands)
    parser = commands.add_parser("statistics", help="intervals, paired tests, calibration and groups, from predictions")
    _common(parser)
    parser.add_argument("--replicates", type=int, default=1000, help="draws of patients")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.set_defaults(run=_statistics)

    parser = commands.add_parser("tables", help="the paper's tables as CSV, Markdown and LaTeX")
    _common(parser)
    parser.add_argument("--which", nargs="+", choices=TABLES, default=TABLES)
    parser.set_defaults(run=_tables)

    parser = commands.add_parser("figures", help="the paper's figures as SVG and PNG")
    _common(parser)
    parser.add_argument("--which", nargs="+", choices=FIGURES, default=FIGURES)
    parser.add_argument("--synthetic", action="store_true", help="say on every figure that the data is fabricated")
    parser.set_defaults(run=_figures)

    parser = commands.add_parser("report", help="report.html: one self-contained page")
    _common(parser)
    parser.add_argument("--out", type=Path, required=True, help="the page")
    _about(parser)
    parser.set_defaults(run=_report)

    parser = commands.add_parser("card", help="dataset card (Markdown) and Croissant description (JSON-LD)")
    _common(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the two files")
    _about(parser)
    parser.set_defaults(run=_card)

    parser = commands.add_parser("compare-protocols", help="one page: what each published quirk costs")
    parser.add_argument("--flexcare", type=Path, required=True, help="output folder under protocol flexcare")
    parser.add_argument("--corrected", type=Path, required=True, help="output folder under protocol corrected")
    parser.add_argument("--suppress-below", type=int, default=10, help="counts in [1, N) are not shown (default 10)")
    parser.add_argument("--out", type=Path, required=True, help="the page; its tables are written beside it")
    _about(parser)
    parser.set_defaults(run=_compare_protocols)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True, help="output folder of the build")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds that were asked for (default: those found)")
    parser.add_argument("--suppress-below", type=int, default=10, help="counts in [1, N) are not shown (default 10)")


def _about(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=json.loads, default={}, help="the resolved configuration as JSON, to be shown")
    parser.add_argument("--code-version", default="", help="version or commit of the code, to be shown")
    parser.add_argument("--synthetic", action="store_true", help="mark every page: the data is fabricated")


def _add_analyse(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("analyse", help="representations, expert choices and scores with fewer modalities")
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder of the run")
    parser.add_argument("--output", type=Path, help="output folder of the build (default: where the run lies)")
    parser.add_argument("--parts", nargs="+", choices=("inside", "modalities"), default=("inside", "modalities"))
    parser.add_argument("--encoder", help="note encoder, where the notes are stored as word-piece ids")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawn samples, of t-SNE and of the losses")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.set_defaults(run=_analyse)


def _analyse(arguments: argparse.Namespace) -> None:
    from flexcare_model.analysis import inside as analysis
    from flexcare_model.data.dataset import load_task
    from flexcare_model.data.loader import Feed
    from flexcare_model.training.checkpoint import load_model
    from flexcare_model.training.predict import find_embedder
    from flexcare_model.training.train import choose_device

    device = choose_device(arguments.device)
    output = arguments.output or arguments.folder.resolve().parents[3]
    embedder = find_embedder(output, arguments.encoder, device)
    model, run = load_model(arguments.folder, device=device)
    datasets = {task: load_task(output, task, "test", max_hours=run.max_hours, embedder=embedder) for task in run.tasks}
    how = {"batch_size": run.batch_size, "seed": arguments.seed}
    if "inside" in arguments.parts:
        representations, experts = analysis.collect(model, datasets, Feed(device), **how)
        atomic_write(arguments.out / "representations.parquet", representations.write_parquet)
        atomic_write(arguments.out / "experts.parquet", experts.write_parquet)
    if "modalities" in arguments.parts:
        scores = analysis.score_with_less(model, datasets, Feed(device), **how)
        atomic_write(arguments.out / "modalities.parquet", scores.write_parquet)


def _statistics(arguments: argparse.Namespace) -> None:
    from flexcare_model.report.numbers import groups, uncertainty
    from flexcare_model.report.numbers.results import Results

    results, folder = Results(arguments.output), arguments.output / "analysis" / "statistics"
    estimates, compared = uncertainty.bootstrap(results, replicates=arguments.replicates, seed=arguments.seed)
    curves, summaries = groups.calibration(results, below=arguments.suppress_below)
    frames = {
        "estimates": estimates,
        "comparisons": compared,
        "curves": curves,
        "calibration": summaries,
        "subgroups": groups.subgroups(results, below=arguments.suppress_below),
    }
    for name, frame in frames.items():
        atomic_write(folder / f"{name}.parquet", frame.write_parquet)


def _tables(arguments: argparse.Namespace) -> None:
    from flexcare_model.report.numbers import beyond, tables
    from flexcare_model.report.numbers.results import Results

    results = Results(arguments.output)
    for which in arguments.which:
        if which == "2":
            layouts = (tables.table2(results, below=arguments.suppress_below),)
        elif which == "statistics":
            layouts = tuple(beyond.layouts(results).values())
        else:
            layouts = tables.TABLES[which](results, seeds=arguments.seeds)
        for layout in layouts:
            layout.write(arguments.output / "tables")


def _figures(arguments: argparse.Namespace) -> None:
    from flexcare_model.report.figures.drawings import draw
    from flexcare_model.report.figures.style import explain_absence, mark_synthetic, save
    from flexcare_model.report.numbers.results import Results

    results, below = Results(arguments.output), arguments.suppress_below
    for which in arguments.which:
        for name, drawing in draw(results, which, below=below).items():
            figure = drawing.figure or explain_absence(drawing.title, drawing.needs)
            if arguments.synthetic or results.is_synthetic:
                mark_synthetic(figure)
            save(figure, arguments.output / "figures", name)


def _report(arguments: argparse.Namespace) -> None:
    from flexcare_model.report.numbers.results import Results
    from flexcare_model.report.pages.page import build_page

    atomic_write(arguments.out, build_page(Results(arguments.output), _told(arguments)))


def _card(arguments: argparse.Namespace) -> None:
    from flexcare_model.report.numbers.results import Results
    from flexcare_model.report.pages.card import croissant, dataset_card

    results, about = Results(arguments.output), _told(arguments)
    atomic_write(arguments.out / "DATASET_CARD.md", dataset_card(results, about))
    text = json.dumps(croissant(results, about), indent=2, ensure_ascii=False) + "\n"
    atomic_write(arguments.out / "croissant.json", text)


def _compare_protocols(arguments: argparse.Namespace) -> None:
    from flexcare_model.report.numbers.protocols import build_comparison, comparison_page
    from flexcare_model.report.numbers.results import Results

    layouts = build_comparison(
        Results(arguments.flexcare), Results(arguments.corrected), below=arguments.suppress_below
    )
    for layout in layouts:
        layout.write(arguments.out.parent / "tables")
    synthetic = Results(arguments.flexcare).is_synthetic
    atomic_write(arguments.out, comparison_page(layouts, _told(arguments), synthetic=synthetic))


def _told(arguments: argparse.Namespace):
    from flexcare_model.report.pages.page import About

    seeds = getattr(arguments, "seeds", None)
    return About(
        config=arguments.config,
        code_version=arguments.code_version or importlib.metadata.version("flexcare"),
        below=arguments.suppress_below,
        seeds=tuple(seeds) if seeds else None,
        is_synthetic=arguments.synthetic or None,
    )
