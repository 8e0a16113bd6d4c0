"""Commands of the model half: note vectors, runs, analyses, tables, figures, pages.

A command parses its arguments and calls one function. In the workflow a command reads a recipe (``--recipe``): its
settings and its inputs. By hand it reads an output folder (``--output``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from flexcare_data.cli import COHORTS, FOLDER, OUT, PART, STAGE, Menu, options, run_stage
from flexcare_data.modalities import MODALITIES
from flexcare_data.store.recipe import Recipe, link_all
from flexcare_model.report.catalogue import FIGURES, REPLICATES, REPLICATES_SEED, TABLES


def prepare_environment() -> None:
    """Settings that libraries read when they are imported."""
    # Set before the first CUDA handle: cuBLAS is deterministic only with this setting.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # Waiting threads sleep. Spinning, the default, is many times slower where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def start_logging() -> None:
    """Write log messages to standard error, without a prefix."""
    import logging
    import sys

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)


@click.group(cls=Menu, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Model half of the FlexCare-benchmark: from cohorts to trained models, tables and the report."""
    start_logging()


DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to compute.")
ENCODER = click.option("--encoder", help="Note encoder, where the notes are stored as word-piece ids.")
OUTPUT = click.option("--output", type=FOLDER, help="Output folder of the build.")
RECIPE = click.option("--recipe", type=FOLDER, help="Recipe written by the workflow: what to make, from which inputs.")
BELOW = click.option("--suppress-below", "below", type=int, default=10, help="Counts in [1, N) are not shown.")
SEEDS = click.option(
    "--seeds", type=int, multiple=True, help="A seed that is expected; repeat for several (default: those found)."
)
SYNTHETIC = click.option("--synthetic", is_flag=True, help="Mark the output as made from synthetic data.")


# --- notes ------------------------------------------------------------------------------------------------------

TEXTS = options(
    click.option("--sections", type=FOLDER, help="Folder of sections; not with --reports."),
    click.option("--reports", type=FOLDER, help="Folder of reports, with `--option notes=radiology`."),
)


@commands.command("encoder")
@click.option("--encoder", required=True, help="Hub name, or `tiny` for a small random one (trials only).")
@TEXTS
@STAGE
def encoder(encoder: str, **arguments: Any) -> None:
    """Prepare a note encoder that is not a local folder."""
    run_stage("encoder", arguments, encoder=encoder)


@commands.command("notes")
@TEXTS
@COHORTS
@click.option("--encoder", required=True, help="Folder or hub name of the note encoder.")
@click.option("--storage", type=click.Choice(["float16", "int8", "tokens"]), default="float16", help="What is stored.")
@click.option("--max-tokens", type=click.IntRange(1), default=512, help="Word pieces kept of a text.")
@click.option("--batch-tokens", type=click.IntRange(1), default=8192, help="Padded word pieces per batch.")
@DEVICE
@PART
@STAGE
def notes(
    encoder: str, storage: str, max_tokens: int, batch_tokens: int, device: str, part: Any, **arguments: Any
) -> None:
    """Compute the note vectors that the cohorts need."""
    settings = {"storage": storage, "max_tokens": max_tokens, "batch_tokens": batch_tokens, "device": device}
    run_stage("notes", arguments, encoder=encoder, part=part, **settings)


@commands.command("convert-encoder")
@click.argument("source")
@click.argument("out", type=FOLDER)
def convert_encoder(source: str, out: Path) -> None:
    """Convert pickled encoder weights to safetensors, once.

    SOURCE is a folder or a hub name. The converted encoder is written to the folder OUT.
    """
    from flexcare_model.notes.convert import convert

    convert(source, out)


# --- runs -------------------------------------------------------------------------------------------------------


@commands.command("train")
@OUTPUT
@RECIPE
@click.option("--model", help="Name of the model, such as flexcare or medfuse.")
@click.option(
    "--experiment", help="The name of a task, or drg_<percent>pct[_pretrained] (default: all tasks together)."
)
@click.option("--seed", type=int, default=40, help="Seed of all random numbers.")
@click.option("--settings", type=json.loads, default="{}", help="Section `train` of the configuration (JSON).")
@click.option("--pretrained", type=FOLDER, help="Folder of the run whose weights a pretrained experiment takes.")
@click.option("--interaction", is_flag=True, help="Evaluate all tasks after each task (figure 7; slow).")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train; overrides the setting.")
@click.option("--threads", type=int, help="CPU threads; overrides the setting.")
@click.option("--workers", type=int, help="DataLoader workers; overrides the setting.")
@click.option(
    "--data-device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where the data is kept; overrides the setting."
)
@ENCODER
@click.option("--out", type=FOLDER, help="Folder of the run (default: below OUTPUT/runs).")
def train(
    output: Path | None,
    recipe: Path | None,
    model: str | None,
    experiment: str | None,
    seed: int,
    settings: dict[str, Any],
    pretrained: Path | None,
    interaction: bool,
    encoder: str | None,
    out: Path | None,
    **fast: Any,
) -> None:
    """Train a model and evaluate it.

    A training that was killed continues where it stopped.
    """
    from flexcare_data.hashing import spec_key
    from flexcare_model.experiments import MULTI_TASK
    from flexcare_model.training.train_and_evaluate import run

    execution = {name: value for name, value in fast.items() if value is not None}
    if recipe:
        target = _given(out, "--out")
        made = Recipe.read(recipe, makes="interaction" if interaction else "run", out=target)
        made.check_unchanged()
        spec, extra = made.spec, made.extra
        with made.view() as view:
            run(
                view,
                target,
                model=spec["model"],
                experiment=spec["experiment"],
                seed=spec["seed"],
                settings=spec["settings"] | execution,
                pretrained=Path(extra["pretrained"]) if extra.get("pretrained") else None,
                encoder=extra.get("encoder"),
                interaction=interaction,
                key=spec_key(spec),
                required=extra.get("required", True),
                verify=made.check_unchanged,
            )
        return
    name, place, experiment = _given(model, "--model"), _given(output, "--output"), experiment or MULTI_TASK
    folder = out or place / "runs" / name / experiment / f"seed{seed}"
    run(
        place,
        folder,
        model=name,
        experiment=experiment,
        seed=seed,
        settings=settings | execution,
        pretrained=pretrained,
        encoder=encoder,
        interaction=interaction,
    )


@commands.command("predict")
@click.option("--run", "folder", type=FOLDER, required=True, help="Folder of the run.")
@click.option("--task", required=True, help="One of the run's tasks.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Default: all samples.")
@click.option("--cohort", type=FOLDER, help="Your cohort table; labels are not needed.")
@click.option(
    "--without", multiple=True, type=click.Choice(MODALITIES),
    help="A modality to remove; repeat for several.",
)  # fmt: skip
@OUTPUT
@ENCODER
@DEVICE
@click.option("--out", type=FOLDER, required=True, help="Table to write, .parquet or .csv.")
def predict(
    folder: Path,
    task: str,
    split: str | None,
    cohort: Path | None,
    without: tuple[str, ...],
    output: Path | None,
    encoder: str | None,
    device: str,
    out: Path,
) -> None:
    """Score a cohort, with any subset of the modalities."""
    from flexcare_data.store.folders import atomic_write
    from flexcare_model.training.predict import predict as score
    from flexcare_model.training.train import choose_device

    frame = score(
        folder,
        task,
        output=output,
        split=split,
        without=without,
        cohort=cohort,
        encoder=encoder,
        device=choose_device(device),
    )
    atomic_write(out, frame.write_csv if out.suffix == ".csv" else frame.write_parquet)


@commands.command("analyse")
@RECIPE
@OUTPUT
@click.option("--run", "folder", type=FOLDER, help="Folder of the run.")
@click.option(
    "--kind", type=click.Choice(["inside", "modalities", "validation"]), required=True, help="Which tables to write."
)
@ENCODER
@DEVICE
@OUT
def analyse(
    recipe: Path | None,
    output: Path | None,
    folder: Path | None,
    kind: str,
    encoder: str | None,
    device: str,
    out: Path,
) -> None:
    """Analyse a trained run.

    `inside` writes the representations of the samples and the choices of the experts, `modalities` the scores with
    fewer modalities, `validation` the predictions of the validation split.
    """
    from flexcare_model.analysis.write import run

    with made_from(recipe, output, kind, out) as (place, target, made):
        trained = Path(made.extra["run"]) if made else _given(folder, "--run")
        run(place, trained, target, kind=kind, device=device, encoder=made.extra.get("encoder") if made else encoder)


# --- report -----------------------------------------------------------------------------------------------------


@commands.command("statistics")
@RECIPE
@OUTPUT
@BELOW
@click.option("--replicates", type=int, default=REPLICATES, help="Draws of patients.")
@click.option("--seed", type=int, default=REPLICATES_SEED, help="Seed of the draws.")
@OUT
def statistics(recipe: Path | None, output: Path | None, below: int, replicates: int, seed: int, out: Path) -> None:
    """Compute intervals, paired tests, calibration and groups.

    They are computed from the predictions of the runs.
    """
    from flexcare_model.report.numbers.statistics import run

    with made_from(recipe, output, "statistics", out) as (place, target, made):
        given = {"suppress_below": below, "replicates": replicates, "seed": seed}
        asked = made.spec["settings"] if made else given
        draws = {"replicates": asked["replicates"], "seed": asked["seed"]}
        run(results_of(place, made), target, below=asked["suppress_below"], **draws)


@commands.command("tables")
@click.argument("name", type=click.Choice(list(TABLES)))
@RECIPE
@OUTPUT
@BELOW
@SEEDS
@OUT
def tables(name: str, recipe: Path | None, output: Path | None, below: int, seeds: tuple[int, ...], out: Path) -> None:
    """Write a table of the paper, or those of the statistics.

    Each is written as CSV, Markdown and LaTeX.
    """
    from flexcare_model.report.write import write_tables

    with made_from(recipe, output, f"tables-{name}", out) as (place, target, made):
        asked = about(made, below=below, seeds=seeds)
        write_tables(results_of(place, made), name, target, below=asked.below, seeds=asked.seeds)


@commands.command("figure")
@click.argument("name", type=click.Choice(list(FIGURES)))
@RECIPE
@OUTPUT
@BELOW
@SYNTHETIC
@OUT
def figure(name: str, recipe: Path | None, output: Path | None, below: int, synthetic: bool, out: Path) -> None:
    """Draw a figure, as SVG and PNG."""
    from flexcare_model.report.write import write_figure

    with made_from(recipe, output, f"figures-{name}", out) as (place, target, made):
        results, asked = results_of(place, made), about(made, below=below, synthetic=synthetic)
        write_figure(results, name, target, below=asked.below, synthetic=asked.synthetic(results.is_synthetic))


@commands.command("report")
@RECIPE
@OUTPUT
@BELOW
@SEEDS
@SYNTHETIC
@OUT
def report(
    recipe: Path | None, output: Path | None, below: int, seeds: tuple[int, ...], synthetic: bool, out: Path
) -> None:
    """Write the report page and its tables.

    The page is page.html; it is self-contained.
    """
    from flexcare_model.report.write import write_page

    with made_from(recipe, output, "page-*", out) as (place, target, made):
        asked = about(made, below=below, seeds=seeds, synthetic=synthetic)
        write_page(results_of(place, made, synthetic=synthetic), target, asked)


@commands.command("card")
@RECIPE
@OUTPUT
@BELOW
@SYNTHETIC
@OUT
def card(recipe: Path | None, output: Path | None, below: int, synthetic: bool, out: Path) -> None:
    """Write the dataset card and the Croissant description.

    They are written as Markdown and as JSON-LD.
    """
    from flexcare_model.report.write import write_card

    with made_from(recipe, output, "card", out) as (place, target, made):
        write_card(results_of(place, made), target, about(made, below=below, synthetic=synthetic))


@commands.command("compare-protocols")
@RECIPE
@click.option("--flexcare", type=FOLDER, help="Output folder under protocol flexcare.")
@click.option("--corrected", type=FOLDER, help="Output folder under protocol corrected.")
@click.option(
    "--alone",
    multiple=True,
    metavar="OPTION=FOLDER",
    help="Output folder under protocol flexcare with this option as in corrected; repeat for several.",
)
@BELOW
@SYNTHETIC
@OUT
def compare_protocols(
    recipe: Path | None,
    flexcare: Path | None,
    corrected: Path | None,
    alone: tuple[str, ...],
    below: int,
    synthetic: bool,
    out: Path,
) -> None:
    """Write a page that compares the two protocols."""
    from flexcare_data.options import Options
    from flexcare_data.store.folders import ensure_folder
    from flexcare_model.report.numbers.results import Results
    from flexcare_model.report.write import write_comparison

    if recipe:
        with made_from(recipe, None, "comparison", out) as (view, target, made):
            priced = {option: Results(view / option) for option in made.spec["settings"]["priced"]} if made else {}
            write_comparison(Results(view / "flexcare"), Results(view / "corrected"), target, about(made), alone=priced)
        return
    places = dict(text.partition("=")[::2] for text in alone)
    if unknown := sorted(set(places) - set(Options.model_fields)):
        raise click.BadParameter(
            f"expected OPTION=FOLDER with an option; got {', '.join(unknown)}", param_hint="--alone"
        )
    sides = Results(_given(flexcare, "--flexcare")), Results(_given(corrected, "--corrected"))
    priced = {option: Results(Path(folder)) for option, folder in places.items()}
    write_comparison(*sides, ensure_folder(out), about(None, below=below, synthetic=synthetic), alone=priced)


@commands.command("temporal-split")
@RECIPE
@click.option("--random", type=FOLDER, help="Output folder under a random split.")
@click.option("--temporal", type=FOLDER, help="Output folder under `split: temporal`.")
@BELOW
@SYNTHETIC
@OUT
def temporal_split(
    recipe: Path | None, random: Path | None, temporal: Path | None, below: int, synthetic: bool, out: Path
) -> None:
    """Write a page that compares two splits: by time, at random."""
    from flexcare_data.store.folders import ensure_folder
    from flexcare_model.report.numbers.results import Results
    from flexcare_model.report.temporal_split import write_temporal_split

    if recipe:
        with made_from(recipe, None, "temporal_split", out) as (view, target, made):
            write_temporal_split(
                results_of(view / "random", made), results_of(view / "temporal", made), target, about(made)
            )
        return
    sides = Results(_given(random, "--random")), Results(_given(temporal, "--temporal"))
    write_temporal_split(*sides, ensure_folder(out), about(None, below=below, synthetic=synthetic))


# --- common -----------------------------------------------------------------------------------------------------


def _given(value: Any, option: str) -> Any:
    if value is None:
        raise click.UsageError(f"expected {option}, or --recipe")
    return value


@contextmanager
def made_from(
    recipe: Path | None, output: Path | None, makes: str, out: Path
) -> Iterator[tuple[Path, Path, Recipe | None]]:
    """Yield the folder with the results, the folder to write into, and the recipe if there is one.

    With a recipe, the written folder is sealed as ``out`` on a clean exit.

    Args:
        makes: the product, as in the recipe.
    """
    from flexcare_data.store.folders import ensure_folder

    if recipe is None:
        yield _given(output, "--output"), ensure_folder(out), None
        return
    made = Recipe.read(recipe, makes=makes, out=out)
    with made.sealed(out) as target, made.view() as view:
        if benchmarks := made.extra.get("benchmarks"):
            link_all(view, {"benchmarks": benchmarks})
        yield view, target, made


def results_of(place: Path, made: Recipe | None, *, synthetic: bool = False) -> Any:
    """The results in ``place``; the recipe says which tasks are trained on, and from which data.

    ``synthetic``: without a recipe, the data is fabricated whatever the output folder says.
    """
    from flexcare_model.report.numbers.results import Results

    settings = made.spec["settings"] if made else {}
    tasks = settings.get("tasks")
    return Results(
        place,
        None if tasks is None else tuple(tasks),
        synthetic=settings.get("synthetic", synthetic or None),
        as_published=settings.get("as_published"),
    )


def about(made: Recipe | None, *, below: int = 10, seeds: tuple[int, ...] = (), synthetic: bool = False) -> Any:
    """What a page or table needs to know of the build: from the recipe, or from the command line."""
    from importlib.metadata import version

    from flexcare_model.report.about import About

    if made is None:
        code = version("flexcare")
        return About(below=below, seeds=seeds or None, is_synthetic=synthetic or None, code_version=code)
    settings = made.spec["settings"]
    products = settings.get("products")
    return About(
        config=settings.get("config", {}),
        code_version=settings.get("code_version", ""),
        below=settings["suppress_below"],
        seeds=tuple(settings.get("seeds", ())) or None,
        is_synthetic=settings["synthetic"],
        left_out=settings.get("left_out", {}),
        products=None if products is None else frozenset(products),
    )
