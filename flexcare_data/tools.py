"""The subcommands that are no stage: they look, tell and tidy up, or make what the stages start from.

In: parsed arguments. Out: text on standard output, an exit status, or the files that a command is for.
"""

from __future__ import annotations

import argparse
import json

from flexcare_data import progress
from flexcare_data.store import folders as store

# What a command uses is imported in it, as in `commands`.


def run_doctor(args: argparse.Namespace) -> int:
    """Findings on standard output; 1 if there is an error."""
    from flexcare_data.config import load_config
    from flexcare_data.doctor import examine as doctor

    user = dict(args.config_json)
    roots = {name: str(path) for name in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note") if (path := getattr(args, name))}
    for section, key, value in (("notes", "encoder", args.encoder), ("store", "path", args.store)):
        if value is not None:
            user[section] = user.get(section, {}) | {key: value}
    if roots:
        user["raw"] = user.get("raw", {}) | roots
    if args.output is not None:
        user["output"] = args.output
    report = doctor.examine(
        load_config(user), fast=args.fast, checksums=args.checksums, progress=progress.meter("bytes")
    )
    if args.json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        print(report.text(("error", "warning") if args.fast else ("error", "warning", "info")))
    return 0 if report.ok else 1


def run_synthesize(args: argparse.Namespace) -> None:
    """Raw data of the three modalities, marked as synthetic."""
    from flexcare_data import synthetic

    synthetic.write(args.out, patients=args.patients, seed=args.seed, edition=args.edition)


def run_explain(args: argparse.Namespace) -> None:
    """One sample on standard output."""
    from flexcare_data.export import explain_sample as explain

    text, matrix = explain.explain(args.output, args.task, args.sample)
    if args.out:
        store.atomic_write(args.out, matrix.write_csv())
    print(text)


def run_store(args: argparse.Namespace) -> int:
    """What the store holds, its problems (exit status 1), what may go, or what made a folder, on standard output."""
    from flexcare_data.store import listing, origins, prune, verify

    if args.action == "ls":
        print(listing.table(listing.ls(args.store)))
    elif args.action == "verify":
        problems = verify.verify(args.store, args.what)
        print("\n".join(problems) or "no problems")
        return 1 if problems else 0
    elif args.action == "prune":
        removals = prune.prune(args.store, keep=[*args.what, *args.keep], keep_days=args.days, dry_run=not args.yes)
        for removal in removals:
            verb = ("removed" if removal.done else "could not remove") if args.yes else "would remove"
            print(f"{verb} {removal.path}, {removal.bytes / 1e6:,.1f} MB: {removal.reason}")
        print(f"{len(removals)} to remove" + ("" if args.yes or not removals else "; add --yes to do it"))
        return 1 if args.yes and not all(removal.done for removal in removals) else 0
    else:
        if len(args.what) not in (1, 2):
            raise store.StoreError(f"store explain: expected one folder or two to compare, got {len(args.what)}")
        print(origins.explain(args.store, *args.what))
    return 0


def run_config_schema(args: argparse.Namespace) -> None:
    """workflow/config/default.yaml and config.schema.json anew, from the configuration model."""
    from flexcare_data.generate.config_files import write_config_files

    write_config_files()


def run_docs(args: argparse.Namespace) -> None:
    """The generated parts of docs/benchmark.md and docs/data_dictionary.md."""
    from flexcare_data.generate import documents as reference

    reference.write_pages()


COMMANDS = {
    "doctor": run_doctor,
    "synthesize": run_synthesize,
    "explain": run_explain,
    "store": run_store,
    "config-schema": run_config_schema,
    "docs": run_docs,
}
