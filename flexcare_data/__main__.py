"""One subcommand per stage of the data half: read, call, write.

Every command can be run by hand as the workflow prints it; ``--spec`` only records what decided the result.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from flexcare_data.shares import Share


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; a known error is one message and exit status 1."""
    args = _parser().parse_args(arguments)
    os.umask(os.umask(0o077) | 0o007)  # what is derived from patients is never open to everybody
    if getattr(args, "threads", None):
        # Polars reads this once, when it is imported.
        os.environ["POLARS_MAX_THREADS"] = str(args.threads)
    from flexcare_data import commands

    try:
        return commands.COMMANDS[args.command](args) or 0
    except Exception as error:
        from flexcare_data import errors, faults

        message = errors.message(error, getattr(args, "out", None))
        if message is None and os.environ.get(faults.FULL_ERRORS):
            raise
        print(f"error: {message}" if message else faults.withheld(error), file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flexcare_data", description=__doc__)
    sub = parser.add_subparsers(dest="command", required=True, metavar="command")

    stays = _stage(sub, "stays", "ICU stays of the benchmark and their phenotypes")
    _roots(stays, "mimiciv")
    splits = _stage(sub, "splits", "folds of the patients")
    _roots(splits, "mimiciv")
    events = _stage(sub, "events", "charted values of the kept stays, from chartevents and labevents")
    _roots(events, "mimiciv")
    _folders(events, "stays")
    hourly = _stage(sub, "hourly", "hourly grids of the kept stays")
    _folders(hourly, "stays", "splits", "events")
    sections = _stage(sub, "sections", "sections of the discharge summaries")
    _roots(sections, "mimic_iv_note", required=False)
    cohort = _stage(sub, "cohort", "samples and labels of one task")
    cohort.add_argument("--task", required=True, help="name of the task")
    _roots(cohort, "mimiciv")
    _roots(cohort, "mimic_cxr_jpg", required=False)
    _folders(cohort, "stays", "splits", "hourly", "sections")
    _folders(cohort, "events", required=False)
    audit = _stage(sub, "audit", "flow, dropped values and leakage certificate of all cohorts")
    _roots(audit, "mimiciv")
    _roots(audit, "mimic_cxr_jpg", required=False)
    _folders(audit, "stays", "splits", "events", "hourly", "sections")
    audit.add_argument("--cohorts", type=Path, nargs="+", required=True, help="folders of the cohorts")

    cxr = _stage(sub, "images", "tensors of the radiographs that the cohorts need")
    _roots(cxr, "mimic_cxr_jpg", required=False)
    cxr.add_argument("--cohorts", type=Path, nargs="+", required=True, help="folders of the cohorts")
    cxr.add_argument("--which", choices=("needed", "all_ap"), default="needed", help="images of the cohorts or all AP")
    cxr.add_argument("--processes", type=int, default=1, help="processes that decode")
    cxr.add_argument("--broken-share", type=float, default=0.01, help="share of broken files that fails the build")
    cxr.add_argument("--allow-missing", action="store_true", help="absent files do not count as broken")
    cxr.add_argument(
        "--share", type=Share.parse, help="2/8: decode only the second of eight shares, and write no stage"
    )

    listing = sub.add_parser("image-list", help="the radiographs that the cohorts need, for wget -i")
    _roots(listing, "mimic_cxr_jpg", required=False)
    listing.add_argument("--cohorts", type=Path, nargs="+", required=True, help="folders of the cohorts")
    listing.add_argument("--base", help="URL before each path; empty: paths only, for wget --base (default: PhysioNet)")
    listing.add_argument("--absent-only", action="store_true", help="leave out what --mimic-cxr-jpg holds already")
    listing.add_argument("--out", type=Path, required=True, help="file to write, one radiograph per line")

    doctor = sub.add_parser("doctor", help="what will go wrong, told before anything runs; exit status 1 for errors")
    _roots(doctor, "mimiciv", "mimic_cxr_jpg", "mimic_iv_note", required=False)
    doctor.add_argument("--config-json", type=json.loads, default={}, help="configuration, as in a config file (JSON)")
    doctor.add_argument("--encoder", help="note encoder: a folder or a hub name")
    doctor.add_argument("--output", help="output folder of the build")
    doctor.add_argument("--store", help="folder of the shards")
    doctor.add_argument("--fast", action="store_true", help="only what takes a second or two, and only problems told")
    doctor.add_argument("--json", action="store_true", help="the report as JSON on standard output")
    doctor.add_argument(
        "--checksums", nargs="?", const="tables", choices=("tables", "all"),
        help="compare with SHA256SUMS.txt of the releases: the tables, or all files (radiographs too)",
    )  # fmt: skip

    synthesize = sub.add_parser("synthesize", help="fabricate raw data with planted answers")
    synthesize.add_argument("--patients", type=int, required=True, help="number of patients")
    synthesize.add_argument("--seed", type=int, default=1, help="seed of the generator")
    synthesize.add_argument("--edition", default="2.2", help="edition whose layout is written")
    synthesize.add_argument("--out", type=Path, required=True, help="folder to write, with one folder per data set")

    meds = sub.add_parser("meds-labels", help="the cohorts as label files of MEDS")
    meds.add_argument("--cohorts", type=Path, nargs="+", required=True, help="folders of the cohorts")
    meds.add_argument("--out", type=Path, required=True, help="folder to write, with one folder per task")

    explain = sub.add_parser("explain", help="one sample told in full")
    explain.add_argument("--output", type=Path, default=Path("results"), help="output folder of the build")
    explain.add_argument("--task", required=True, help="name of the task")
    explain.add_argument("--sample", required=True, help="sample_id")
    explain.add_argument("--out", type=Path, help="write the matrix with the names of its columns here (csv)")

    sub.add_parser("config-schema", help="renew workflow/config/default.yaml and config.schema.json")
    sub.add_parser("docs", help="renew the parts of docs/ that list options, tables and variables")
    store = sub.add_parser("store", help="look after the shared shards")
    store.add_argument("action", choices=("ls", "verify", "prune", "explain"))
    store.add_argument("what", nargs="*", help="stages, as ls names them")
    store.add_argument("--store", type=Path, required=True, help="folder of the shards")
    store.add_argument("--keep", nargs="*", default=[], help="prune: stages to keep, with what they read")
    store.add_argument("--days", type=float, default=None, help="prune: keep what was written in the last days")
    store.add_argument("--yes", action="store_true", help="prune: remove, not only list")
    return parser


def _stage(sub: Any, name: str, text: str) -> argparse.ArgumentParser:
    stage = sub.add_parser(name, help=text, description=text)
    stage.add_argument("--out", type=Path, required=True, help="folder of the stage")
    stage.add_argument("--spec", type=json.loads, default={}, help="what decides the result, for the manifest (JSON)")
    stage.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="option of the protocol")
    stage.add_argument("--private", action="store_true", help="files readable by the owner only, not by the group")
    stage.add_argument("--threads", type=int, default=None, help="threads")
    return stage


def _roots(parser: argparse.ArgumentParser, *names: str, required: bool = True) -> None:
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=required, help=f"folder raw.{name}")


def _folders(parser: argparse.ArgumentParser, *names: str, required: bool = True) -> None:
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=required, help=f"folder of the stage {name}")


if __name__ == "__main__":
    # What is imported lives as long as the process: to look through it for garbage while it is imported, and again at
    # the end, is a third of the time of a short command.
    gc.set_threshold(100_000, 50, 100)
    status = main()
    gc.freeze()
    sys.exit(status)
