"""The build plan: the stages, what decides the content of each, and where it is stored.

In: a `Config`. Out: a `Plan` with a `Product` per stage. A product's folder is named by its key, and the key is a
digest of everything that decides its bytes: options, settings, content of the raw tables, keys of the products that it
reads, code and libraries. So a complete folder is correct, and a change affects only the products that
depend on it.

What is made of trained models (runs, tables, figures, pages) is planned in `flexcare_model.plan`, in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl

from flexcare_data.code_digest import code_digest
from flexcare_data.config import Config
from flexcare_data.discovery import task_names
from flexcare_data.encoder_files import encoder_files
from flexcare_data.hashing import remembered_digest, spec_key
from flexcare_data.raw.files import RawDataError, locate
from flexcare_data.raw.radiographs import listing_digest
from flexcare_data.schema import OUTPUT_FORMAT, RAW, RAW_ROOTS, cohort_stage, task_of_stage
from flexcare_data.store.folders import is_complete

TABLE_LIBRARIES = ("numpy", "polars", "pyarrow")
"""Libraries that decide the bytes of a table."""
NOTE_LIBRARIES = (*TABLE_LIBRARIES, "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class Stage:
    """One step of the data half: what it may read, and what it publishes.

    A stage that reads a raw table or an option that is not listed here fails (`flexcare_data.stages.work`).

    Attributes:
        name: as in the store.
        module: owns the stage's ``run(work)``; its import closure is the stage's code.
        raw: raw tables.
        options: options of the protocol.
        upstream: stages whose folders it reads.
        tasks: tasks whose declarations it reads.
        libraries: libraries that decide its bytes.
        outputs: its files, and the names below the output folder that link to them; the first one is a target.
    """

    name: str
    module: str
    raw: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    libraries: tuple[str, ...] = TABLE_LIBRARIES
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def code(self) -> tuple[str, ...]:
        """Modules where the stage's code begins."""
        return (self.module, *(f"flexcare_data.tasks.{task}" for task in sorted(self.tasks)))


@dataclass(frozen=True)
class Product:
    """A result that is made once and found by its key.

    Attributes:
        name: such as ``stays``.
        spec: everything that decides its content, as JSON values.
        folder: where it is stored.
        done: the file that exists once it is complete.
        published: names below the output folder -> files they link to; the first one is a target.
        inputs: the products that it reads, by name.
    """

    name: str
    spec: dict[str, Any]
    folder: Path
    done: Path
    published: dict[str, Path]
    inputs: dict[str, Product] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """12 hex digits."""
        return spec_key(self.spec)

    @property
    def target(self) -> str:
        """The first published name, which is a target."""
        return next(iter(self.published))


_HOURLY = ("index.parquet", "values.npy", "observed.npy", "scaler.json")
_TAILS = ("index.parquet", "values.npy", "observed.npy")

SHARED_STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("synthetic", module="flexcare_data.stages.synthetic", libraries=(*TABLE_LIBRARIES, "pillow")),
        Stage(
            "stays",
            module="flexcare_data.stages.stays",
            raw=("icustays", "admissions", "patients", "diagnoses_icd", "d_icd_diagnoses"),
            options=("death_label", "age", "readmission", "nested", "after_death", "icd", "icd10"),
            outputs={"stays.parquet": "data/stays.parquet", "admissions.parquet": "data/admissions.parquet"},
        ),
        Stage(
            "splits",
            module="flexcare_data.stages.splits",
            raw=("admissions", "patients"),
            options=("split",),
            outputs={"splits.parquet": "data/splits.parquet"},
        ),
        Stage(
            "events",
            module="flexcare_data.stages.events.build",
            raw=("chartevents", "labevents"),
            options=(
                "fluids", "fio2", "height", "gcs_total", "capillary_refill", "duplicates", "ranges", "lab_without_hadm",
            ),
            upstream=("stays",),
            libraries=(*TABLE_LIBRARIES, "numba"),
            outputs={"events.parquet": "data/events.parquet"},
        ),
        Stage(
            "hourly",
            module="flexcare_data.stages.hourly",
            options=("availability", "edges", "height", "gcs_spellings", "scaler"),
            upstream=("stays", "splits", "events"),
            outputs={name: f"data/hourly/{name}" for name in _HOURLY},
        ),
        Stage(
            "sections",
            module="flexcare_data.stages.sections",
            raw=("discharge",),
            options=("note_cleaning", "bhc_fallback"),
            outputs={"sections.parquet": "data/notes/sections.parquet"},
        ),
        Stage(
            "reports",
            module="flexcare_data.stages.reports",
            raw=("radiology",),
            options=("note_cleaning",),
            outputs={"reports.parquet": "data/notes/reports.parquet"},
        ),
        Stage(
            "radiographs",
            module="flexcare_data.stages.radiographs",
            raw=("metadata",),
            outputs={"radiographs.parquet": "data/radiographs.parquet"},
        ),
    )
}  # fmt: skip
"""Stages that do not depend on the configured tasks, in the order of the flow. `reports` is planned only where option
`notes` is `radiology` (`Plan.reads_reports`)."""


COHORT_INPUTS = ("stays", "splits", "hourly", "sections", "reports", "radiographs")
"""Stages that every cohort reads; reports only with `notes: radiology`."""


def cohort_row(task_name: str) -> Stage:
    """The stage of one cohort, from what its `TASK` declares."""
    from flexcare_data.tasks import TASKS  # loads the task and polars: only when a cohort is planned

    task = TASKS[task_name]
    outputs = {
        f"{task.name}.parquet": f"cohorts/{task.name}.parquet",
        "windows.parquet": f"data/windows/{task.name}.parquet",
    }
    if task.ends_within_hour:
        outputs |= {f"tails/{name}": f"data/hourly/{task.name}_tails/{name}" for name in _TAILS}
    return Stage(
        cohort_stage(task.name),
        module="flexcare_data.stages.cohort",
        raw=("admissions", *task.raw),
        options=("notes", "repeats", *task.options),
        upstream=(*COHORT_INPUTS, *(["events"] if task.ends_within_hour else [])),
        tasks=(task.name,),
        outputs=outputs,
    )


def collected_rows(tasks: Iterable[str]) -> dict[str, Stage]:
    """The stages that read the cohorts of all configured ``tasks``, and the note encoder."""
    tasks = tuple(tasks)
    cohorts = tuple(cohort_stage(task) for task in tasks)
    rows = (
        Stage(
            "audit",
            module="flexcare_data.stages.audit.build",
            options=(
                "after_death",
                "asked",
                "availability",
                "edges",
                "gcs_spellings",
                "height",
                "nested",
                "notes",
                "scaler",
            ),
            upstream=("stays", "splits", "events", "hourly", "sections", "reports", "radiographs", *cohorts),
            tasks=tasks,
            libraries=(*TABLE_LIBRARIES, "duckdb"),
            outputs={name: f"data/{name}" for name in ("leakage.json", "flow.json", "dropped.json")},
        ),
        Stage(
            "images",
            module="flexcare_data.stages.images.build",
            raw=("metadata",),
            upstream=cohorts,
            libraries=(*TABLE_LIBRARIES, "pillow"),
            outputs={"index.parquet": "data/cxr/index.parquet", "shards": "data/cxr/shards"},
        ),
        Stage(
            "encoder",
            module="flexcare_model.notes.prepare",
            upstream=("sections", "reports"),
            libraries=NOTE_LIBRARIES,
        ),
        Stage(
            "notes",
            module="flexcare_model.notes.build",
            upstream=("sections", "reports", *cohorts),
            tasks=tasks,
            libraries=NOTE_LIBRARIES,
            outputs={"index.parquet": "data/notes/index.parquet", "shards": "data/notes/shards"},
        ),
    )
    return {row.name: row for row in rows}


def first_names() -> dict[str, str]:
    """First published name of each stage -> the stage; cohorts are missing, because they are named by their tasks."""
    rows = {**SHARED_STAGES, **collected_rows(())}
    return {next(iter(row.outputs.values())): name for name, row in rows.items() if row.outputs}


def stage_row(name: str, tasks: Iterable[str] = ()) -> Stage:
    """The row of stage ``name`` where ``tasks`` are configured; the cohort of any task can be requested."""
    if name in SHARED_STAGES:
        return SHARED_STAGES[name]
    if task := task_of_stage(name):
        return cohort_row(task)
    return collected_rows(tasks)[name]


class Plan:
    """The products of the data half under one configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.options = config.resolved_options
        self.output = config.output
        self.store = config.store_path
        self.by_key = config.output / "by_key"
        self._products: dict[str, Product] = {}
        self._raw_digests: dict[str, str] = {}

    # --- tasks --------------------------------------------------------------------------------------------------

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Configured tasks whose raw tables exist; the others are in `left_out`."""
        return tuple(task for task in task_names() if task in self.config.tasks and task not in self.left_out)

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Configured tasks that cannot be built, with the reason: a raw table that only they need is missing."""
        from flexcare_data.tasks import TASKS

        reasons: dict[str, str] = {}
        if self.config.is_synthetic:
            return reasons
        for task in self.config.tasks:
            for table in TASKS[task].raw:
                root = self.root(RAW[table].root)
                try:
                    if root is not None:
                        locate(root, table)
                except RawDataError as error:
                    reasons[task] = str(error)
        return reasons

    @cached_property
    def without_samples(self) -> dict[str, str]:
        """Tasks whose cohort is empty by configuration, with the reason: they need a data set that is not set."""
        from flexcare_data.tasks import TASKS

        return {
            task: f"raw.{root} is not set"
            for task in self.config.tasks
            for root in TASKS[task].data_sets
            if self.root(root) is None
        }

    def is_empty(self, task: str) -> bool:
        """True if the cohort of ``task`` is built and has no training samples."""
        cohort = self.product(cohort_stage(task))
        if not is_complete(cohort.folder):
            return False
        split = pl.read_parquet(cohort.folder / f"{task}.parquet", columns=["split"])["split"]
        return not (split == "train").any()

    def stage(self, name: str) -> Stage:
        """The row of stage ``name`` under this configuration."""
        return stage_row(name, self.tasks)

    @property
    def cohorts(self) -> tuple[str, ...]:
        """Stages of the cohorts that `cohorts` and `all` build."""
        return tuple(cohort_stage(task) for task in self.tasks)

    @property
    def shared(self) -> tuple[str, ...]:
        """Published stages that do not depend on the configured tasks: what every cohort is made from."""
        rows = SHARED_STAGES.items()
        return tuple(name for name, row in rows if row.outputs and (name != "reports" or self.reads_reports))

    @property
    def reads_reports(self) -> bool:
        """True where radiology reports are the notes: the only case in which their table is needed."""
        return self.options.notes == "radiology"

    @property
    def published(self) -> tuple[str, ...]:
        """All stages with published names, in the order of the flow."""
        collected = tuple(name for name, row in collected_rows(self.tasks).items() if row.outputs)
        return (*self.shared, *self.cohorts, *collected)

    # --- products -----------------------------------------------------------------------------------------------

    def product(self, name: str) -> Product:
        """The product of stage ``name``."""
        if name not in self._products:
            inputs = {upstream: self.product(upstream) for upstream in self.upstream(name)}
            spec = self._spec(self.stage(name), inputs)
            folder = self.store / f"{name}-{spec_key(spec)}"
            self._products[name] = Product(
                name,
                spec,
                folder,
                done=self.by_key / "stages" / folder.name,
                published={link: folder / file for file, link in self.stage(name).outputs.items()},
                inputs=inputs,
            )
        return self._products[name]

    def upstream(self, name: str) -> tuple[str, ...]:
        """Names of the stages that stage ``name`` reads."""
        stage = self.stage(name)
        own = tuple(read for read in stage.upstream if read != "reports" or self.reads_reports)
        if name in ("encoder", "notes") and self.reads_reports:
            own = tuple(read for read in own if read != "sections")
        if name == "encoder" and self.config.notes.encoder != "tiny":
            own = ()
        if name == "notes" and not self.encoder_folder:
            own = ("encoder", *own)
        if self.config.is_synthetic and stage.raw:
            own = (*own, "synthetic")
        return own

    def _spec(self, stage: Stage, inputs: dict[str, Product]) -> dict[str, Any]:
        return {
            "stage": stage.name,
            "options": {name: getattr(self.options, name) for name in stage.options},
            "settings": self.settings(stage.name),
            "raw": {name: self.raw_digest(name)[:16] for name in stage.raw},
            "upstream": {name: product.key for name, product in inputs.items()},
            "code": code_spec(*stage.code),
            "libraries": library_versions(stage.libraries),
            "format": OUTPUT_FORMAT,
        }

    def settings(self, name: str) -> dict[str, Any]:
        """Settings of the configuration that decide the content of stage ``name``."""
        notes = self.config.notes
        if name == "synthetic":
            return self.config.synthetic.model_dump(mode="json")
        if name == "splits" and self.options.split == "temporal":
            return self.config.temporal.model_dump(mode="json")
        if name == "images":
            images = self.config.images.model_dump(mode="json", include={"which", "broken_share", "allow_missing"})
            return images | {"files": self._listing}
        if name == "encoder":
            return {"encoder": notes.encoder}
        if name == "notes":
            encoder = {"encoder": encoder_files(self.encoder_folder)} if self.encoder_folder else {}
            return encoder | {"storage": notes.storage, "max_tokens": notes.max_tokens}
        if self.reads_reports and (name == "audit" or task_of_stage(name)):
            return {"n_reports": notes.reports}
        return {}

    def samples_spec(self, task: str) -> dict[str, Any]:
        """Everything that decides the samples of ``task``: its cohort, its series, its images, its notes.

        Images and notes are those of this task alone, so a further configured task changes nothing here.
        """
        images = self.product("images").spec
        notes = self.product("notes").spec
        return {
            "cohort": self.product(cohort_stage(task)).key,
            "hourly": self.product("hourly").key,
            "images": {name: images[name] for name in ("raw", "code", "libraries")} | {"files": self._listing},
            "notes": {
                "settings": notes["settings"],
                "code": code_spec(self.stage("notes").module),
                "libraries": notes["libraries"],
                "upstream": {name: key for name, key in notes["upstream"].items() if task_of_stage(name) is None},
            },
        }

    # --- raw data -----------------------------------------------------------------------------------------------

    def root(self, root: str) -> Path | None:
        """Folder of a raw data set, or None where the modality is absent."""
        if self.config.is_synthetic:
            return self.product("synthetic").folder / root
        return getattr(self.config.raw, root)

    def roots(self) -> dict[str, Path]:
        """The raw folders that are set."""
        return {root: path for root in RAW_ROOTS if (path := self.root(root)) is not None}

    def check_roots(self) -> None:
        """Check the raw folders that are set.

        Raises:
            RawDataError: with all problems, before anything is planned.
        """
        if self.config.is_synthetic:
            return
        from flexcare_data.tasks import TASKS

        own = {table for name in task_names() for table in TASKS[name].raw}
        needed = {table for name in self.published for table in self.stage(name).raw} - own
        problems = []
        for name, table in RAW.items():
            root = self.root(table.root)
            if root is None or name not in needed:
                continue
            try:
                locate(root, name)
            except RawDataError as error:
                problems.append(str(error))
        if problems:
            raise RawDataError("\n".join(dict.fromkeys(problems)))

    def raw_digest(self, name: str) -> str:
        """sha256 of a raw table's file; ``absent`` where its data set is not set."""
        if name not in self._raw_digests:
            root = self.root(RAW[name].root)
            if root is None:
                self._raw_digests[name] = "absent"
            elif self.config.is_synthetic:
                self._raw_digests[name] = self.product("synthetic").key
            else:
                self._raw_digests[name] = remembered_digest(locate(root, name))
        return self._raw_digests[name]

    @cached_property
    def _listing(self) -> str:
        """A digest of which radiographs exist; of embedded synthetic data, their settings decide."""
        root = self.root("mimic_cxr_jpg")
        if root is None:
            return "absent"
        return "synthetic" if self.config.is_synthetic else listing_digest(root)

    # --- note encoder -------------------------------------------------------------------------------------------

    @cached_property
    def encoder_folder(self) -> Path | None:
        """The local folder of the note encoder; None for `tiny` and for a name of the hub, which are prepared once."""
        folder = Path(self.config.notes.encoder).expanduser()
        return folder if self.config.notes.encoder != "tiny" and folder.is_dir() else None


def code_spec(*modules: str) -> dict[str, Any]:
    """The code part of a spec: where it begins, and its digest. `changed_code` compares it with the code that runs."""
    return {"modules": list(modules), "digest": code_digest(*modules)}


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions; a library that is not installed is left out."""
    return {name: found for name in names if (found := _installed(name))}


@cache
def _installed(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
