"""The build plan: which stages there are, what decides the content of each, and where it lies in the store.

In: a `Config`. Out: a `Plan` with a key per stage. A stage's folder is `<store>/<stage>-<key>/`, and the key is a
digest of its options, its raw files' content, the keys of the stages it reads, and its code; so equal work has one
place, whoever does it, and a changed option moves only what depends on it.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexcare_data.code_digest import code_digest, function_code
from flexcare_data.config import Config
from flexcare_data.options import Options
from flexcare_data.raw import tables as raw
from flexcare_data.raw.radiographs import files_digest
from flexcare_data.schema import OUTPUT_FORMAT, RAW
from flexcare_data.store.folders import canonical, spec_key
from flexcare_data.tasks import TASKS, Task

ROOTS = ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")


@dataclass(frozen=True)
class Stage:
    """One step of the data half.

    Attributes:
        name: as in the store; also the subcommand, up to a dash.
        raw: raw tables it reads.
        options: options of the protocol that it uses.
        upstream: stages whose folders it reads.
        module: where its code begins.
        outputs: its files and where they are published below the output folder.
    """

    name: str
    module: str
    raw: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    outputs: dict[str, str] = field(default_factory=dict)


def cohort_stage(task: str) -> str:
    """Name of the stage that builds the cohort of ``task``."""
    return f"cohort-{task}"


def _cohort(task: Task) -> Stage:
    outputs = {
        f"{task.name}.parquet": f"cohorts/{task.name}.parquet",
        "windows.parquet": f"data/windows/{task.name}.parquet",
    }
    if task.ends_within_hour:
        tails = ("index.parquet", "values.npy", "observed.npy")
        outputs |= {f"tails/{name}": f"data/hourly/{task.name}_tails/{name}" for name in tails}
    return Stage(
        cohort_stage(task.name),
        module=f"flexcare_data.tasks.{task.name}",
        raw=("admissions", "metadata", *task.raw),
        options=("notes", "repeats", *task.options),
        upstream=("stays", "splits", "hourly", "sections", *(["events"] if task.ends_within_hour else [])),
        outputs=outputs,
    )


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "stays",
            module="flexcare_data.stages.stays",
            raw=("icustays", "admissions", "patients", "diagnoses_icd", "d_icd_diagnoses"),
            options=("death_label", "age", "readmission", "icd", "icd10"),
            outputs={"stays.parquet": "data/stays.parquet"},
        ),
        Stage(
            "splits",
            module="flexcare_data.stages.splits",
            raw=("admissions",),
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
            outputs={"events.parquet": "data/events.parquet"},
        ),
        Stage(
            "hourly",
            module="flexcare_data.stages.hourly",
            options=("edges", "height", "gcs_spellings", "scaler"),
            upstream=("stays", "splits", "events"),
            outputs={
                name: f"data/hourly/{name}" for name in ("index.parquet", "values.npy", "observed.npy", "scaler.json")
            },
        ),
        Stage(
            "sections",
            module="flexcare_data.stages.sections",
            raw=("discharge",),
            options=("note_cleaning", "bhc_fallback"),
            outputs={"sections.parquet": "data/notes/sections.parquet"},
        ),
        *(_cohort(task) for task in TASKS.values()),
    )
}  # fmt: skip
"""Stages with one folder each, in the order of the flow. The audit and the pools follow from the cohorts chosen."""

_AUDIT_OUTPUTS = {name: f"data/{name}" for name in ("flow.json", "dropped.json", "leakage.json")}
_CXR_OUTPUTS = {"index.parquet": "data/cxr/index.parquet", "shards": "data/cxr/shards"}
_NOTES_OUTPUTS = {"index.parquet": "data/notes/index.parquet", "shards": "data/notes/shards"}


_COMMANDS = {"cxr": "run_images"}
"""Functions of `commands` that make a stage, where they are called otherwise. That of the notes is in its module."""


class Plan:
    """Keys, folders and command-line arguments of all stages of one configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.options = config.resolved_options
        self.store = config.store_path
        self._specs: dict[str, dict[str, Any]] = {}
        cohorts = tuple(cohort_stage(task) for task in config.tasks)
        self.stages: dict[str, Stage] = dict(STAGES) | {
            stage.name: stage
            for stage in (
                Stage(
                    "audit",
                    module="flexcare_data.stages.audit",
                    raw=("metadata", "admissions"),
                    options=("notes", "scaler"),
                    upstream=("stays", "splits", "events", "hourly", "sections", *cohorts),
                    outputs=_AUDIT_OUTPUTS,
                ),
                Stage(
                    "cxr",
                    module="flexcare_data.stages.images.build",
                    raw=("metadata",),
                    upstream=cohorts,
                    outputs=_CXR_OUTPUTS,
                ),
                Stage(
                    "notes",
                    module="flexcare_model.notes.embed",
                    upstream=("sections", *cohorts),
                    outputs=_NOTES_OUTPUTS,
                ),
            )
        }

    def spec(self, stage: str) -> dict[str, Any]:
        """Everything that decides the content of ``stage``."""
        if stage not in self._specs:
            part = self.stages[stage]
            self._specs[stage] = {
                "stage": stage,
                "options": {name: getattr(self.options, name) for name in part.options},
                "settings": self._settings(stage),
                "raw": {name: self._raw_digest(name)[:16] for name in part.raw},
                "upstream": {name: self.key(name) for name in part.upstream},
                "code": self._code(part),
                "format": OUTPUT_FORMAT,
            }
        return self._specs[stage]

    def _code(self, part: Stage) -> str:
        """Digest of the stage's code, of the readers of raw tables, and of the command that puts them together."""
        modules = [part.module, "flexcare_data.raw.tables"] if part.raw else [part.module]
        command = function_code("flexcare_data.commands", _COMMANDS.get(part.name, f"run_{part.name.split('-')[0]}"))
        return hashlib.sha256((code_digest(*modules) + command).encode()).hexdigest()[:16]

    def _settings(self, stage: str) -> dict[str, Any]:
        if stage == "cxr":
            return {"which": self.config.images.which, "files": self.radiograph_files()}
        if stage == "notes":
            notes = self.config.notes
            return {"encoder": self._encoder(), "storage": notes.storage, "max_tokens": notes.max_tokens}
        return {}

    def radiograph_files(self) -> str:
        """A digest of which radiographs there are; of embedded synthetic data, their settings decide."""
        root = self.root("mimic_cxr_jpg")
        return "synthetic" if self.config.is_synthetic or root is None else files_digest(root)

    def _encoder(self) -> str | dict[str, str]:
        """The files of an encoder in a local folder, wherever it lies; the name of one of the hub."""
        folder = Path(self.config.notes.encoder).expanduser()
        if not folder.is_dir():
            return self.config.notes.encoder
        files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".txt", ".model", ".safetensors"))
        return {path.name: raw.digest(path, self.store / "digests")[:16] for path in files}

    def key(self, stage: str) -> str:
        """12 hex digits."""
        return spec_key(self.spec(stage))

    def dir(self, stage: str) -> Path:
        """Folder of ``stage`` in the store."""
        return self.store / f"{stage}-{self.key(stage)}"

    def manifest(self, stage: str) -> Path:
        """The file that exists once the stage is complete."""
        return self.dir(stage) / "manifest.json"

    def spec_text(self, stage: str) -> str:
        """The spec as the commands take it (``--spec``)."""
        return canonical(self.spec(stage))

    def option_arguments(self, stage: str) -> str:
        """``--option name=value`` for each option of the stage that differs from the published benchmark."""
        published = Options()
        changed = [
            name for name in self.stages[stage].options if getattr(self.options, name) != getattr(published, name)
        ]
        return " ".join(f"--option {shlex.quote(f'{name}={getattr(self.options, name)}')}" for name in changed)

    def root(self, root: str) -> Path | None:
        """Folder of a raw data set, or None where the modality is absent."""
        return raw_roots(self.config)[root]

    def raw_arguments(self, *roots: str) -> str:
        """``--mimiciv DIR`` and so on, for the data sets that are there."""
        given = {root: self.root(root) for root in roots}
        return " ".join(
            f"--{root.replace('_', '-')} {shlex.quote(str(path))}" for root, path in given.items() if path is not None
        )

    def raw_files(self, stage: str) -> list[Path]:
        """The raw files that the stage reads and that exist."""
        return [path for name in self.stages[stage].raw if (path := self._raw_file(name))]

    def _raw_file(self, name: str) -> Path | None:
        root = self.root(RAW[name].root)
        if root is None or self.config.is_synthetic:
            return None
        try:
            return raw.locate(root, name)
        except raw.RawDataError:
            return None  # check_raw says what is wrong before anything runs

    def _raw_digest(self, name: str) -> str:
        root = self.root(RAW[name].root)
        if root is None:
            return "absent"
        if self.config.is_synthetic:
            # Made by the workflow itself: its settings and code decide its content.
            synthetic = self.config.synthetic.model_dump() | {"code": code_digest("flexcare_data.synthetic")}
            return hashlib.sha256(canonical(synthetic).encode()).hexdigest()
        path = self._raw_file(name)
        return raw.digest(path, self.store / "digests") if path else "missing"


def raw_roots(config: Config) -> dict[str, Path | None]:
    """The three raw folders; those of the embedded synthetic data where raw.mimiciv is not set."""
    if config.is_synthetic:
        return {root: config.output / "synthetic_raw" / root for root in ROOTS}
    return {root: getattr(config.raw, root) for root in ROOTS}
