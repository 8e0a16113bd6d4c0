"""Subcommands that turn an output folder into tables, figures and the page."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path

from flexcare_data.store import atomic_write
from flexcare_model.report import tables
from flexcare_model.report.results import Results


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add ``tables`` and ``report`` to the program."""
    parser = commands.add_parser("tables", help="the paper's tables as CSV, Markdown and LaTeX")
    _common(parser)
    parser.add_argument("--which", nargs="+", choices=["2", *tables.TABLES], default=["2", *tables.TABLES])
    parser.set_defaults(run=_tables)

    parser = commands.add_parser("report", help="report.html: one self-contained page")
    _common(parser)
    parser.add_argument("--out", type=Path, required=True, help="the page")
    parser.add_argument("--config", type=json.loads, default={}, help="the resolved configuration as JSON, to be shown")
    parser.add_argument("--code-version", default="", help="version or commit of the code, to be shown")
    parser.add_argument("--synthetic", action="store_true", help="mark every page: the data is fabricated")
    parser.set_defaults(run=_report)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True, help="output folder of the build")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds that were asked for (default: those found)")
    parser.add_argument("--suppress-below", type=int, default=10, help="counts in [1, N) are not shown (default 10)")


def _tables(arguments: argparse.Namespace) -> None:
    results = Results(arguments.output)
    for which in arguments.which:
        if which == "2":
            layouts = (tables.table2(results, below=arguments.suppress_below),)
        else:
            layouts = tables.TABLES[which](results, seeds=arguments.seeds)
        for layout in layouts:
            layout.write(arguments.output / "tables")


def _report(arguments: argparse.Namespace) -> None:
    from flexcare_model.report.page import About, build_page

    version = arguments.code_version or importlib.metadata.version("flexcare")
    about = About(
        config=arguments.config,
        code_version=version,
        below=arguments.suppress_below,
        seeds=tuple(arguments.seeds) if arguments.seeds else None,
        is_synthetic=arguments.synthetic or None,
    )
    atomic_write(arguments.out, build_page(Results(arguments.output), about))
