"""What each subcommand does: read its inputs, call the stage, write its folder.

The only place that opens the files of the data half, through `raw` and `store`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from flexcare_data import progress, schema, tools
from flexcare_data.options import Options
from flexcare_data.raw import tables as raw
from flexcare_data.store import folders as store

if TYPE_CHECKING:
    from flexcare_data.tasks.base import Sources

# Stages are imported where they are called: a command loads only what it needs, and starts in half the time.


def run_stays(args: argparse.Namespace) -> None:
    """stays.parquet, phenotypes.parquet."""
    from flexcare_data.stages import phenotypes, stays

    options, dropped = _options(args), raw.empty_counts()
    tables = {
        name: raw.read_table(args.mimiciv, name, dropped)
        for name in ("icustays", "admissions", "patients", "diagnoses_icd", "d_icd_diagnoses")
    }
    frame, flow = stays.build_stays(tables["icustays"], tables["admissions"], tables["patients"], options)
    labels = phenotypes.build_phenotypes(tables["diagnoses_icd"], tables["d_icd_diagnoses"], frame, options)
    flow.append({"step": "a known diagnosis", **_counts(frame.join(labels, on="stay_id", how="semi"))})
    with _stage(args) as folder:
        frame.write_parquet(folder / "stays.parquet")
        labels.write_parquet(folder / "phenotypes.parquet")
        _write_counts(folder, {"stays": flow}, dropped)


def _counts(frame: pl.DataFrame) -> dict[str, int]:
    return {
        "stays": frame.height,
        "admissions": frame["hadm_id"].n_unique(),
        "patients": frame["subject_id"].n_unique(),
    }


def run_splits(args: argparse.Namespace) -> None:
    """splits.parquet."""
    from flexcare_data.stages import splits

    dropped = raw.empty_counts()
    frame = splits.build_splits(raw.read_table(args.mimiciv, "admissions", dropped), _options(args))
    with _stage(args) as folder:
        frame.write_parquet(folder / "splits.parquet")
        _write_counts(folder, {}, {})  # the admissions' own counts stand with the stays


def run_events(args: argparse.Namespace) -> None:
    """events.parquet."""
    from flexcare_data.stages.events import build as events

    tables = {name: raw.locate(args.mimiciv, name) for name in ("chartevents", "labevents")}
    frame = pl.read_parquet(args.stays / "stays.parquet")
    with _stage(args) as folder, _scratch(folder) as scratch:
        meter, read = progress.meter("bytes"), dict.fromkeys(tables, 0)
        size = sum(path.stat().st_size for path in tables.values())

        def show(name: str, done: int, total: int) -> None:
            read[name] = done  # the tables are read side by side
            if meter:
                meter(sum(read.values()), size)

        counts = events.build_events(
            tables,
            frame,
            _options(args),
            out=folder / "events.parquet",
            scratch=scratch,
            threads=args.threads or 1,
            progress=show,
        )
        _write_counts(folder, counts.flow, counts.dropped)


def run_hourly(args: argparse.Namespace) -> None:
    """values.npy, observed.npy, index.parquet, scaler.json."""
    from flexcare_data.stages import hourly

    frame = pl.read_parquet(args.stays / "stays.parquet", columns=["stay_id", "subject_id", "los_hours"])
    diagnosed = pl.read_parquet(args.stays / "phenotypes.parquet", columns=["stay_id"])
    folds = pl.read_parquet(args.splits / "splits.parquet")
    train = frame.join(folds.filter(pl.col("split") == "train"), on="subject_id", how="semi")
    ends = frame.join(diagnosed, on="stay_id", how="semi").select("stay_id", "los_hours")
    with _stage(args) as folder:
        counts = hourly.build_hourly(
            args.events / "events.parquet",
            ends,
            _options(args),
            out=folder,
            train_stays=train["stay_id"].to_numpy(),
            threads=args.threads or 1,
            progress=progress.meter("stays"),
        )
        flow = [
            {"step": "stays with a known diagnosis", "stays": ends.height},
            {"step": "with a series", "stays": counts["with series"]},
        ]
        _write_counts(folder, {"series": flow}, {})


def run_sections(args: argparse.Namespace) -> None:
    """sections.parquet; without notes an empty one."""
    from flexcare_data.stages import sections as notes

    dropped = raw.empty_counts()
    meter = progress.meter("bytes")
    rows = raw.read_notes(args.mimic_iv_note, dropped, meter) if args.mimic_iv_note else iter(())
    with _stage(args) as folder, _scratch(folder) as scratch:
        counts = notes.build_sections(
            rows, _options(args), out=folder / "sections.parquet", scratch=scratch, dropped=dropped
        )
        flow = [{"step": step, "notes": n} for step, n in counts.items()]
        _write_counts(folder, {"discharge": flow}, dropped)


def run_cohort(args: argparse.Namespace) -> None:
    """<task>.parquet; for tasks whose input may end inside an hour also tails/."""
    from flexcare_data.stages import hourly
    from flexcare_data.tasks import TASKS

    if args.task not in TASKS:
        raise raw.RawDataError(f"--task: expected one of {', '.join(TASKS)}, got {args.task}")
    dropped = raw.empty_counts()
    options = _options(args)
    sources = _sources(args, options, dropped)
    cohort = TASKS[args.task].build(sources)
    with _stage(args) as folder:
        cohort.table.write_parquet(folder / f"{args.task}.parquet")
        cohort.windows.write_parquet(folder / "windows.parquet")
        if cohort.ends is not None:
            (folder / "tails").mkdir()
            hourly.build_tails(args.events / "events.parquet", cohort.ends, options, out=folder / "tails")
        _write_counts(folder, {args.task: cohort.flow}, _merged([dropped, cohort.dropped]))


def _sources(args: argparse.Namespace, options: Options, dropped: raw.Dropped) -> Sources:
    from flexcare_data.tasks import TASKS
    from flexcare_data.tasks.base import Sources

    cxr = args.mimic_cxr_jpg
    radiographs = _radiographs(cxr, dropped)
    admissions = raw.read_table(args.mimiciv, "admissions", {})
    marks = _section_marks(args.sections)
    # A note belongs to an admission of its own patient; releases of different age know different admissions.
    sections = marks.join(admissions, on=["subject_id", "hadm_id"], how="semi")
    raw.count(dropped, "sections", "", "admission_unknown", marks.height - sections.height)
    return Sources(
        stays=pl.read_parquet(args.stays / "stays.parquet"),
        splits=pl.read_parquet(args.splits / "splits.parquet"),
        series=pl.read_parquet(args.hourly / "index.parquet"),
        phenotypes=pl.read_parquet(args.stays / "phenotypes.parquet"),
        admissions=admissions,
        radiographs=radiographs,
        sections=sections,
        options=options,
        raw={name: _raw(getattr(args, schema.RAW[name].root), name, dropped) for name in TASKS[args.task].raw},
    )


def _section_marks(folder: Path) -> pl.DataFrame:
    """SECTIONS with an empty text where there is a section: cohorts only ask whether there is one."""
    names = ("past_medical_history", "brief_hospital_course")
    marks = [pl.when(pl.col(name).is_not_null()).then(pl.lit("")).alias(name) for name in names]
    return pl.scan_parquet(folder / "sections.parquet").with_columns(marks).collect()


def _raw(root: Path | None, name: str, dropped: raw.Dropped) -> pl.DataFrame:
    if root is None:
        return pl.DataFrame(schema=schema.RAW[name].columns)
    return raw.read_table(root, name, dropped)


def _radiographs(root: Path | None, dropped: raw.Dropped) -> pl.DataFrame:
    from flexcare_data.stages.images import build as images

    radiographs, counts = images.ap_radiographs(_raw(root, "metadata", dropped))
    for reason, n in counts.items():
        raw.count(dropped, "metadata", "", reason.replace(" ", "_"), n)
    return radiographs


def run_audit(args: argparse.Namespace) -> None:
    """flow.json, dropped.json, leakage.json of the whole build."""
    from flexcare_data.stages import audit as leakage

    parts = [args.stays, args.splits, args.events, args.hourly, args.sections, *args.cohorts]
    dropped = raw.empty_counts()
    cohorts = _read_cohorts(args.cohorts)
    certificate = leakage.certify(
        cohorts,
        _read_windows(args.cohorts),
        stays=pl.read_parquet(args.stays / "stays.parquet"),
        splits=pl.read_parquet(args.splits / "splits.parquet"),
        series=pl.read_parquet(args.hourly / "index.parquet"),
        sections=_section_marks(args.sections),
        radiographs=_radiographs(args.mimic_cxr_jpg, dropped),
        options=_options(args),
        scaler=json.loads((args.hourly / "scaler.json").read_text()),
    )
    flow: dict[str, Any] = {}
    for part in parts:
        flow |= json.loads((part / "flow.json").read_text())
    merged = _merged([json.loads((part / "dropped.json").read_text()) for part in parts], of_one_table=max)
    with _stage(args) as folder:
        for name, content in (("flow", flow), ("dropped", merged), ("leakage", certificate)):
            _write_json(folder / f"{name}.json", content)


def _read_cohorts(folders: list[Path]) -> dict[str, pl.DataFrame]:
    """Cohorts by task, in the order of TASKS."""
    from flexcare_data.tasks import TASKS

    found = {path.stem: pl.read_parquet(path) for path in _cohort_files(folders)}
    return {task: found[task] for task in TASKS if task in found}


def _read_windows(folders: list[Path]) -> dict[str, pl.DataFrame]:
    """WINDOWS by task."""
    return {path.stem: pl.read_parquet(path.parent / "windows.parquet") for path in _cohort_files(folders)}


def _cohort_files(folders: list[Path]) -> list[Path]:
    return [path for folder in folders for path in folder.glob("*.parquet") if path.stem != "windows"]


def run_images(args: argparse.Namespace) -> None:
    """index.parquet, problems.parquet and the shards of the radiographs."""
    from flexcare_data.stages.images import build as images

    cohorts = _read_cohorts(args.cohorts)
    columns = ["dicom_id", "subject_id", "study_id"]
    if args.which == "all_ap":
        wanted = _radiographs(args.mimic_cxr_jpg, raw.empty_counts()).select(columns)
    else:
        chosen = [cohort.drop_nulls("dicom_id").select(columns) for cohort in cohorts.values()]
        wanted = pl.concat(chosen).unique().sort("dicom_id")
    root = args.mimic_cxr_jpg or args.out.parent
    how: dict[str, Any] = {
        "pool_dir": args.out.parent / f"cxr-{store.spec_key(images.pool_spec())}",
        "processes": args.processes,
        "group_readable": not args.private,
        "progress": progress.meter("images"),
    }
    if args.share is not None:
        n = images.decode_share(wanted, root, args.share, **how)
        print(f"share {args.share.number} of {args.share.total}: {n:,} radiographs are in the store")
        return
    counts = images.build(
        wanted,
        root,
        out_dir=args.out,
        spec=args.spec,
        broken_share=args.broken_share,
        allow_missing=args.allow_missing,
        **how,
    )
    print(f"{counts['tensors']:,} of {counts['radiographs']:,} radiographs are in the store")
    if problems := {reason: n for reason, n in counts["problems"].items() if n}:
        print(f"the rest: {problems}, each named in {args.out / 'problems.parquet'}")


def run_image_list(args: argparse.Namespace) -> None:
    """The list of radiographs; count and size on standard output."""
    from flexcare_data.export import download_list as image_list

    base = image_list.BASE if args.base is None else args.base
    found = image_list.list_images(
        _read_cohorts(args.cohorts).values(), root=args.mimic_cxr_jpg, absent_only=args.absent_only
    )
    store.atomic_write(args.out, found.text(base).encode())
    print(found.summary())
    given = f"--base={image_list.BASE} " if not base else ""
    folder = args.mimic_cxr_jpg or "MIMIC_CXR_JPG"
    # Three folders are cut: files/mimic-cxr-jpg/2.0.0, so that files/p10/... remains below the folder.
    print(f"wget -x -N -c -nH --cut-dirs=3 -P {folder} --user NAME --ask-password {given}-i {args.out}")


def run_meds_labels(args: argparse.Namespace) -> None:
    """<task>/<label>.parquet in MEDS' label schema."""
    from flexcare_data.export import meds_labels
    from flexcare_data.tasks import TASKS

    windows = _read_windows(args.cohorts)
    building = store.temporary_path(args.out)  # the folder is the output: it must not be there in part
    try:
        for task, cohort in _read_cohorts(args.cohorts).items():
            asked = windows[task].select("sample_id", "prediction_time")
            timed = cohort.join(asked, on="sample_id", how="left", validate="1:1")
            meds_labels.write_labels(meds_labels.label_tables(timed, TASKS[task]), building / task)
        store.remove(args.out)
        building.rename(args.out)
    finally:
        store.remove(building)


def _options(args: argparse.Namespace) -> Options:
    pairs = dict(pair.partition("=")[::2] for pair in args.option)
    return Options.model_validate(pairs)


def _stage(args: argparse.Namespace) -> Any:
    return store.write_stage(args.out, spec=args.spec, group_readable=not args.private)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for intermediate files inside the stage's own temporary one; gone when the stage is sealed."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        yield Path(scratch)


def _merged(parts: list[raw.Dropped], of_one_table: Any = sum) -> raw.Dropped:
    """Counts of several stages together. A table that several stages read is counted once (``of_one_table=max``)."""
    merged: raw.Dropped = {}
    for part in parts:
        for table, by_column in part.items():
            for column, reasons in by_column.items():
                into = merged.setdefault(table, {}).setdefault(column, {})
                for reason, n in reasons.items():
                    into[reason] = of_one_table([into.get(reason, 0), n])
    return merged


def _write_counts(folder: Path, flow: dict[str, Any], dropped: raw.Dropped) -> None:
    _write_json(folder / "flow.json", flow)
    _write_json(folder / "dropped.json", dropped)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(
        json.dumps(content, indent=1, sort_keys=isinstance(content, dict) and path.stem == "dropped") + "\n"
    )


COMMANDS = {
    "stays": run_stays,
    "splits": run_splits,
    "events": run_events,
    "hourly": run_hourly,
    "sections": run_sections,
    "cohort": run_cohort,
    "audit": run_audit,
    "images": run_images,
    "image-list": run_image_list,
    "meds-labels": run_meds_labels,
    **tools.COMMANDS,
}
