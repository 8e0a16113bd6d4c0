"""Commands of the data half: one per stage, then those that inspect, report and maintain.

A command parses its arguments and calls one function; what decides a result is in that function, so no key depends on
this module. Everything is imported inside the commands, which keeps `--help` fast.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flexcare_data.job_part import JobPart

if TYPE_CHECKING:
    from flexcare_data.options import Options
    from flexcare_data.store.recipe import Recipe

FOLDER = click.Path(path_type=Path)
OUT = click.option("--out", type=FOLDER, required=True, help="Folder to write.")


class Menu(click.Group):
    """A group that lists its commands in the order in which they were added, each with its whole first sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.write_section(formatter, "Commands", self.list_commands(ctx))

    def write_section(self, formatter: click.HelpFormatter, title: str, names: Iterable[str]) -> None:
        """List the commands ``names`` under ``title``, aligned with those of other sections."""
        width = max(map(len, self.commands))
        rows = [(name.ljust(width), self.commands[name].get_short_help_str(limit=sys.maxsize)) for name in names]
        with formatter.section(title):
            formatter.write_dl(rows)


def run_commands(group: click.Group, program: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error that the user can fix is one message and exit status 1.

    Args:
        arguments: those of the command line; None: of this process.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    os.umask(os.umask(0o077) | 0o007)  # data derived from patients is never readable by others
    threads = next((value for flag, value in pairwise(given) if flag == "--threads"), None)
    if threads:
        os.environ["POLARS_MAX_THREADS"] = threads  # read once, when polars is imported
    try:
        return group.main(given, prog_name=program, standalone_mode=False) or 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:  # Ctrl-C
        print("interrupted", file=sys.stderr)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:
        from flexcare_data import errors

        place = next((Path(value) for flag, value in pairwise(given) if flag in ("--out", "--output")), None)
        text = errors.report(error, place)
        if text is None:
            raise
        print(text, file=sys.stderr)
        return 1


@click.group(cls=Menu, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Data half of the FlexCare-benchmark: from raw PhysioNet tables to seven cohorts."""


# --- stages -----------------------------------------------------------------------------------------------------


def options(*decorators: Callable) -> Callable:
    """Combine click options into one decorator; the help lists them in this order."""

    def decorate(function: Callable) -> Callable:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def roots(*names: str) -> Callable:
    """Options for the folders of raw data sets."""
    return options(
        *(click.option(f"--{name.replace('_', '-')}", type=FOLDER, help=f"Folder raw.{name}.") for name in names)
    )


def folders(*names: str) -> Callable:
    """Options for the folders of upstream stages."""
    return options(
        *(click.option(f"--{name}", type=FOLDER, required=True, help=f"Folder of {name}.") for name in names)
    )


MEMORY = click.option("--memory-mb", type=click.IntRange(200), default=4000, help="Memory in MB for the SQL queries.")
COHORTS = click.option(
    "--cohorts", type=FOLDER, multiple=True, required=True, help="Folder of a cohort; once for each."
)


def _job_part(text: str) -> JobPart:
    try:
        return JobPart.parse(text)
    except ValueError as error:  # of a ValueError click shows only the given text
        raise click.BadParameter(str(error)) from None


PART = click.option("--part", type=_job_part, help="2/8: do only the second of eight parts, and write no stage.")
FABRICATED = options(
    click.option("--patients", type=click.IntRange(1), required=True, help="Number of patients."),
    click.option("--seed", type=int, default=1, help="Seed of the generator."),
    click.option("--edition", default="2.2", help="Edition whose layout is written."),
)
RECIPE = click.option("--recipe", type=FOLDER, help="Recipe written by the workflow; --out is then a sealed folder.")
STAGE = options(
    click.option("--option", "option", multiple=True, metavar="NAME=VALUE", help="Option of the protocol."),
    click.option("--spec", type=FOLDER, help="File with all that decides the content (JSON); checked and stored."),
    click.option("--private", is_flag=True, help="Readable by the owner only, not by the group."),
    click.option("--threads", type=click.IntRange(1), default=1, help="Threads."),
    OUT,
)


def run_stage(stage: str, arguments: dict[str, Any], **settings: Any) -> None:
    """Call ``run`` of a stage's module with the arguments of its command line.

    Args:
        arguments: values of the options `roots`, `folders`, `COHORTS` and `STAGE`.
        settings: further settings of the stage.
    """
    from importlib import import_module

    from flexcare_data.options import Options
    from flexcare_data.plan import stage_row
    from flexcare_data.schema import RAW_ROOTS, cohort_stage
    from flexcare_data.stages.work import DeclaredOptions, StageWork
    from flexcare_data.store.recipe import Recipe

    row = stage_row(stage)
    given = Options.model_validate(dict(pair.partition("=")[::2] for pair in arguments["option"]))
    upstream = {name: arguments[name] for name in row.upstream if arguments.get(name)}
    # Named by the table in it: a folder of the store is called cohort-<task>-<key>, one made by hand as the user likes.
    for folder in arguments.get("cohorts", ()):
        upstream[cohort_stage(_task_of(folder))] = folder
    roots = {root: arguments[root] for root in RAW_ROOTS if arguments.get(root)}
    spec: dict[str, Any] = {}
    if arguments["spec"]:
        recipe = Recipe.read(arguments["spec"], makes=stage, out=arguments["out"])
        _check_arguments(recipe, given, roots, upstream, settings)
        spec = recipe.spec
    work = StageWork(
        name=stage,
        out=arguments["out"],
        options=DeclaredOptions(given, row.options),
        declared_raw=row.raw,
        roots=roots,
        upstream=upstream,
        settings=settings,
        spec=spec,
        threads=arguments["threads"],
        group_readable=not arguments["private"],
    )
    work.check_unchanged()
    import_module(row.module).run(work)


def _check_arguments(
    recipe: Recipe, options: Options, roots: dict[str, Path], upstream: dict[str, Path], settings: dict[str, Any]
) -> None:
    """Raise RecipeError unless the arguments of a stage's command are those of its spec."""
    from flexcare_data.encoder_files import encoder_files
    from flexcare_data.schema import RAW
    from flexcare_data.store.recipe import key_of_folder

    spec = recipe.spec
    planned, folders = spec.get("settings", {}), dict(upstream)
    given = {name: value for name, value in settings.items() if name in planned}
    if "encoder" in settings and recipe.name == "notes":  # a prepared encoder, or a folder of the user
        folder = Path(settings["encoder"])
        if "encoder" in planned:
            given["encoder"] = encoder_files(folder)
        else:
            folders["encoder"] = folder
    keys = {name: key_of_folder(folder) for name, folder in folders.items()}
    if "synthetic" in spec.get("upstream", {}):
        keys["synthetic"] = ", ".join(sorted({key_of_folder(folder.parent) for folder in roots.values()}))
    # The command finds which radiographs exist by itself, as the plan does.
    found = {name: value for name, value in planned.items() if name not in settings}
    recipe.check_arguments(
        options={name: getattr(options, name, None) for name in spec.get("options", {})},
        settings=found | given,
        upstream=keys,
        # Content is compared by StageWork.check_unchanged; here, whether there is any.
        raw={name: value if (RAW[name].root in roots) == (value != "absent") else _other(value)
             for name, value in spec.get("raw", {}).items()},
    )  # fmt: skip


def _other(digest: str) -> str:
    return "a folder" if digest == "absent" else "absent"


def _task_of(folder: Path) -> str:
    tables = [path.stem for path in sorted(folder.glob("*.parquet")) if path.stem != "windows"]
    if len(tables) != 1:
        raise click.BadParameter(
            f"{folder}: expected the folder of one cohort, found tables {tables}", param_hint="--cohorts"
        )
    return tables[0]


@commands.command("stays")
@roots("mimiciv")
@STAGE
def stays(**arguments: Any) -> None:
    """ICU stays of the benchmark and their phenotypes."""
    run_stage("stays", arguments)


@commands.command("splits")
@roots("mimiciv")
@click.option("--train", multiple=True, help="Group of years of `split=temporal`, such as 2014 - 2016; once for each.")
@click.option("--val", multiple=True, help="The same of the validation patients.")
@click.option("--test", multiple=True, help="The same of the test patients.")
@STAGE
def splits(train: tuple[str, ...], val: tuple[str, ...], test: tuple[str, ...], **arguments: Any) -> None:
    """Train, validation and test patients."""
    from pydantic import ValidationError

    from flexcare_data.config import Temporal

    given = {name: groups for name, groups in (("train", train), ("val", val), ("test", test)) if groups}
    try:
        groups = Temporal.model_validate(given)
    except ValidationError as error:
        raise click.BadParameter(error.errors()[0]["msg"], param_hint="--train, --val, --test") from None
    run_stage("splits", arguments, **groups.model_dump(mode="json"))


@commands.command("events")
@roots("mimiciv")
@folders("stays")
@STAGE
def events(**arguments: Any) -> None:
    """Charted values of the kept stays.

    They are read from chartevents and labevents.
    """
    run_stage("events", arguments)


@commands.command("hourly")
@folders("stays", "splits", "events")
@STAGE
def hourly(**arguments: Any) -> None:
    """Hourly grids of the kept stays."""
    run_stage("hourly", arguments)


@commands.command("sections")
@roots("mimic_iv_note")
@STAGE
def sections(**arguments: Any) -> None:
    """Sections of the discharge summaries."""
    run_stage("sections", arguments)


@commands.command("reports")
@roots("mimic_iv_note")
@STAGE
def reports(**arguments: Any) -> None:
    """Findings and impressions of the radiology reports.

    They are needed for the option `notes=radiology` only.
    """
    run_stage("reports", arguments)


@commands.command("radiographs")
@roots("mimic_cxr_jpg")
@STAGE
def radiographs(**arguments: Any) -> None:
    """AP radiographs and when they were taken."""
    run_stage("radiographs", arguments)


REPORTS = options(
    click.option("--reports", type=FOLDER, help="Folder of reports, with `--option notes=radiology`."),
    click.option(
        "--n-reports", type=click.IntRange(1), default=3, help="Reports of a sample at most, with the same option."
    ),
)


@commands.command("cohort")
@click.option("--task", required=True, help="Name of the task.")
@roots("mimiciv", "mimic_cxr_jpg")
@folders("stays", "splits", "hourly", "sections", "radiographs")
@REPORTS
@click.option("--events", type=FOLDER, help="Folder of events, for a task whose input may end inside an hour.")
@STAGE
def cohort(task: str, n_reports: int, **arguments: Any) -> None:
    """Samples and labels of one task."""
    from flexcare_data.discovery import task_names
    from flexcare_data.schema import cohort_stage

    if task not in task_names():
        raise click.BadParameter(f"expected one of {', '.join(task_names())}, got {task}", param_hint="--task")
    run_stage(cohort_stage(task), arguments, task=task, n_reports=n_reports)


@commands.command("audit")
@folders("stays", "splits", "events", "hourly", "sections", "radiographs")
@REPORTS
@COHORTS
@MEMORY
@STAGE
def audit(memory_mb: int, n_reports: int, **arguments: Any) -> None:
    """Check the samples for leakage; count what was dropped."""
    run_stage("audit", arguments, memory_mb=memory_mb, n_reports=n_reports)


@commands.command("images")
@roots("mimic_cxr_jpg")
@COHORTS
@click.option(
    "--which", type=click.Choice(["needed", "all_ap"]), default="needed", help="Radiographs of the cohorts, or all AP."
)
@click.option("--processes", type=click.IntRange(1), default=1, help="Processes that decode.")
@click.option(
    "--broken-share", type=click.FloatRange(0, 1), default=0.01, help="Share of broken files that is an error."
)
@click.option("--allow-missing", is_flag=True, help="Missing files do not count as broken.")
@PART
@STAGE
def images(which: str, processes: int, broken_share: float, allow_missing: bool, part: Any, **arguments: Any) -> None:
    """Tensors of the radiographs that the cohorts need."""
    settings = {"which": which, "processes": processes, "broken_share": broken_share, "allow_missing": allow_missing}
    run_stage("images", arguments, part=part, **settings)


@commands.command("synthetic")
@FABRICATED
@STAGE
def synthetic(patients: int, seed: int, edition: str, **arguments: Any) -> None:
    """Fabricated raw data, as a stage of the store.

    Labels follow planted signals.
    """
    run_stage("synthetic", arguments, patients=patients, seed=seed, edition=edition)


# --- tools ------------------------------------------------------------------------------------------------------


@commands.command("synthesize")
@FABRICATED
@OUT
def synthesize(patients: int, seed: int, edition: str, out: Path) -> None:
    """Fabricated raw data, in one subfolder per data set.

    Labels follow planted signals.
    """
    from flexcare_data.synthetic.write import write_data_set

    write_data_set(out, patients=patients, seed=seed, edition=edition)


@commands.command("doctor")
@roots("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")
@click.option("--configfile", type=FOLDER, help="Configuration file (YAML or JSON).")
@click.option("--encoder", help="Note encoder: a folder or a hub name.")
@click.option("--output", help="Output folder of the build.")
@click.option("--store", help="Folder of the store.")
@click.option("--fast", is_flag=True, help="Only what takes a second or two; only problems are reported.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.option(
    "--checksums", type=click.Choice(["tables", "all"]), help="Compare with SHA256SUMS.txt: the tables, or all files."
)
def doctor(
    configfile: Path | None, fast: bool, as_json: bool, checksums: Literal["tables", "all"] | None, **given: Any
) -> int:
    """Report what will go wrong, before anything runs.

    The exit status is 1 if there are errors.
    """
    import yaml

    from flexcare_data import progress
    from flexcare_data.config import load_config
    from flexcare_data.doctor import examine
    from flexcare_data.schema import RAW_ROOTS

    user: dict[str, Any] = (yaml.safe_load(configfile.read_text()) or {}) if configfile else {}
    places = {("raw", root): given[root] for root in RAW_ROOTS}
    places |= {("notes", "encoder"): given["encoder"], ("store", "path"): given["store"]}
    for (section, name), value in places.items():
        if value is not None:
            user[section] = (user.get(section) or {}) | {name: str(value)}
    if given["output"] is not None:
        user["output"] = given["output"]
    report = examine.examine(load_config(user), fast=fast, checksums=checksums, progress=progress.meter("bytes"))
    if as_json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        print(report.text(("error", "warning") if fast else ("error", "warning", "info")))
    return 0 if report.ok else 1


@commands.command("explain")
@click.option("--output", type=FOLDER, default=Path("results"), help="Output folder of the build.")
@click.option("--task", required=True, help="Name of the task.")
@click.option("--sample", required=True, help="Its sample_id.")
@click.option("--out", type=FOLDER, help="Write the matrix with the names of its columns to this file (CSV).")
def explain(output: Path, task: str, sample: str, out: Path | None) -> None:
    """Show one sample and why its inputs were chosen.

    Prints its times, its matrix, its radiograph and its note.
    """
    from flexcare_data.export.explain_sample import explain_sample
    from flexcare_data.store.folders import atomic_write

    text, matrix = explain_sample(output, task, sample)
    if out:
        atomic_write(out, matrix.write_csv())
    print(text)


@commands.command("catalogue")
@RECIPE
@OUT
def catalogue(recipe: Path, out: Path) -> None:
    """The published tables as views of a DuckDB database."""
    from flexcare_data.export.catalogue import write_catalogue
    from flexcare_data.store.recipe import Recipe

    given = Recipe.read(recipe, makes="catalogue", out=out)
    settings = given.spec["settings"]
    with given.view() as published, given.sealed(out) as folder:
        write_catalogue(published, settings["tasks"], settings["options"], folder / "benchmark.duckdb")


@commands.command("fingerprint")
@click.option("--output", type=FOLDER, default=Path("results"), help="Output folder of the build.")
@click.option("--compare", type=FOLDER, help="Compare with this file, written by --out; exit status 1 if they differ.")
@click.option(
    "--suppress-below", "below", type=int, default=10, help="Tasks with 1 to this number - 1 samples are hidden."
)
@click.option("--renew", is_flag=True, help="For developers: store the fingerprint of the embedded fabricated data.")
@click.option("--recipe", type=FOLDER, help="Recipe written by the workflow; --out is then a sealed folder.")
@click.option("--out", type=FOLDER, help="Write the fingerprint to this file. It holds no identifier.")
def fingerprint(
    output: Path, compare: Path | None, below: int, renew: bool, recipe: Path | None, out: Path | None
) -> int:
    """Digests of the cohorts, by which two labs compare them.

    Prints a line per task (ids, splits, labels, series, images, notes) and a total. The digests do not depend on the
    machine, the number of cores, paths, or the order of rows.
    """
    from flexcare_data.export import fingerprint as prints
    from flexcare_data.store.folders import atomic_write
    from flexcare_data.store.recipe import Recipe

    if renew:
        from flexcare_data.export.fabricated_fingerprint import renew as renew_expected

        renew_expected()
        return 0
    if recipe is not None:
        if out is None:
            raise click.UsageError("--recipe needs --out")
        made = Recipe.read(recipe, makes="fingerprint", out=out)
        below = made.spec["settings"]["suppress_below"]
        with made.sealed(out) as folder, made.view() as view:
            found = prints.fingerprint(view)
            atomic_write(folder / "fingerprint.json", prints.as_text(found, below))
        print("\n".join(found.lines(below)))
        return 0
    there = prints.read(compare) if compare else None
    found = prints.fingerprint(output)
    if out:
        atomic_write(out, prints.as_text(found, below))
    print("\n".join(found.lines(below)))
    if there is None:
        return 0
    different = prints.differences(found, there)
    print("\n".join(different) or f"the same as {compare}")
    return 1 if different else 0


@commands.command("image-list")
@roots("mimic_cxr_jpg")
@COHORTS
@click.option("--base", help="URL before each path; empty: paths only, for wget --base (default: PhysioNet).")
@click.option("--absent-only", is_flag=True, help="Leave out files that --mimic-cxr-jpg already has.")
@RECIPE
@OUT
def image_list(
    mimic_cxr_jpg: Path | None,
    cohorts: tuple[Path, ...],
    base: str | None,
    absent_only: bool,
    recipe: Path | None,
    out: Path,
) -> None:
    """List the radiographs that the cohorts need, for wget -i.

    Their number and size are printed.
    """
    from flexcare_data.export.download_list import write_list
    from flexcare_data.store.recipe import Recipe

    frames = map(_cohort, cohorts)
    if recipe is None:
        write_list(frames, root=mimic_cxr_jpg, base=base, absent_only=absent_only, out=out)
        return
    name = "image_list.txt"
    with Recipe.read(recipe, makes="image_list", out=out).sealed(out) as folder:
        write_list(
            frames, root=mimic_cxr_jpg, base=base, absent_only=absent_only, out=folder / name, shown_as=out / name
        )


@commands.command("meds-labels")
@COHORTS
@RECIPE
@OUT
def meds_labels(cohorts: tuple[Path, ...], recipe: Path | None, out: Path) -> None:
    """The cohorts as label files of MEDS, a folder per task."""
    from flexcare_data.export.meds_labels import write_all
    from flexcare_data.store.recipe import Recipe

    by_task = {_task_of(folder): folder for folder in cohorts}
    if recipe is None:
        write_all(by_task, out)
        return
    with Recipe.read(recipe, makes="meds_labels", out=out).sealed(out) as folder:
        write_all(by_task, folder)


def _cohort(folder: Path) -> Any:
    import polars as pl

    return pl.read_parquet(folder / f"{_task_of(folder)}.parquet")


@commands.command("config-schema")
def config_schema() -> None:
    """Write the generated configuration files.

    These are workflow/config/default.yaml and config.schema.json, from the configuration model.
    """
    from flexcare_data.generate.config_files import write_config_files

    write_config_files()


@commands.command("docs")
def docs() -> None:
    """Write the generated parts of the documents.

    These are docs/benchmark.md and docs/data_dictionary.md.
    """
    from flexcare_data.generate.documents import write_pages

    write_pages()


# --- store ------------------------------------------------------------------------------------------------------


@commands.group("store", cls=Menu)
def store() -> None:
    """Maintain the store that a lab shares."""


STORE = click.option("--store", "folder", type=FOLDER, required=True, help="Folder of the store.")
NAMES = click.argument("names", nargs=-1)


@store.command("ls")
@STORE
def store_ls(folder: Path) -> None:
    """List its folders with kind, size and age."""
    from flexcare_data.store import listing

    print(listing.table(listing.ls(folder)))


@store.command("verify")
@NAMES
@STORE
def store_verify(names: tuple[str, ...], folder: Path) -> int:
    """Read every byte again and report what is damaged.

    The exit status is 1 if anything is damaged.
    """
    from flexcare_data.store.verify import verify

    problems = verify(folder, names)
    print("\n".join(problems) or "no problems")
    return 1 if problems else 0


@store.command("prune")
@NAMES
@STORE
@click.option("--keep", multiple=True, help="A folder to keep, with what it reads; once for each.")
@click.option("--days", type=float, help="Keep what was written in the last days.")
@click.option("--yes", is_flag=True, help="Remove, do not only list.")
def store_prune(names: tuple[str, ...], folder: Path, keep: tuple[str, ...], days: float | None, yes: bool) -> int:
    """List or remove folders that are no longer needed.

    Lists files of killed jobs, and folders that no kept folder depends on.
    """
    from flexcare_data.store.prune import prune

    removals = prune(folder, keep=[*names, *keep], keep_days=days, dry_run=not yes)
    for removal in removals:
        verb = ("removed" if removal.done else "could not remove") if yes else "would remove"
        print(f"{verb} {removal.path}, {removal.bytes / 1e6:,.1f} MB: {removal.reason}")
    print(f"{len(removals)} to remove" + ("" if yes or not removals else "; add --yes to do it"))
    return 1 if yes and not all(removal.done for removal in removals) else 0


@store.command("describe")
@NAMES
@STORE
def store_describe(names: tuple[str, ...], folder: Path) -> None:
    """Describe what a folder was made of, or how two folders differ."""
    from flexcare_data.store.describe import describe
    from flexcare_data.store.folders import StoreError

    if len(names) not in (1, 2):
        raise StoreError(f"store describe: expected one folder, or two to compare, got {len(names)}")
    print(describe(folder, *names))
