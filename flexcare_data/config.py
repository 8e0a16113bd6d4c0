"""The typed configuration of a build and its runs.

In: `workflow/config/default.yaml`, a preset beside it, the user's settings. Out: a `Config`, or `ConfigError` with one
line per mistake. Later settings win: default.yaml < preset < user.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Literal, get_origin

import yaml
from pydantic import BaseModel, Field, PositiveInt, ValidationError, field_validator, model_validator

from flexcare_data.errors import UserError
from flexcare_data.modalities import MAX_NOTE_TOKENS
from flexcare_data.options import PAPER_TASKS, Options, resolve
from flexcare_data.package_files import package_folder
from flexcare_data.train_settings import Section, TaskName, Train

CONFIG_DIR = package_folder("workflow/config")


class ConfigError(UserError, ValueError):
    """The configuration is wrong; the message has one line per mistake."""


class Raw(Section):
    mimiciv: Path | None = Field(
        None, description="folder of MIMIC-IV as downloaded (has hosp/ and icu/); null: embedded fabricated data"
    )
    mimic_cxr_jpg: Path | None = Field(
        None, description="folder of MIMIC-CXR-JPG (has files/ and mimic-cxr-2.0.0-*.csv.gz); null: no radiographs"
    )
    mimic_iv_note: Path | None = Field(
        None, description="folder of MIMIC-IV-Note (has note/discharge.csv.gz); null: no notes"
    )


class Temporal(Section):
    """Groups of years (`anchor_year_group` of MIMIC-IV) of each split, where option `split` is `temporal`."""

    train: tuple[str, ...] = Field(("2008 - 2010", "2011 - 2013"), description="groups of the training patients")
    val: tuple[str, ...] = Field(("2014 - 2016",), description="groups of the validation patients")
    test: tuple[str, ...] = Field(
        ("2017 - 2019", "2020 - 2022"), description="groups of the test patients; the last one exists since edition 3.0"
    )

    @field_validator("train", "val", "test")
    @classmethod
    def _groups(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(re.fullmatch(r"\d{4} - \d{4}", group) for group in value):
            raise ValueError("expected one or more groups of years, such as 2014 - 2016")
        return value

    @model_validator(mode="after")
    def _one_split_each(self) -> Temporal:
        groups = [*self.train, *self.val, *self.test]
        if several := sorted({group for group in groups if groups.count(group) > 1}):
            raise ValueError(f"expected each group once, in one of train, val and test; more than once: {several}")
        return self


class Synthetic(Section):
    """The embedded fabricated data, used where raw.mimiciv is null."""

    patients: PositiveInt = Field(200, description="number of fabricated patients")
    seed: int = Field(1, description="seed of the generator")
    edition: Literal["1.0", "2.0", "2.1", "2.2", "3.0", "3.1"] = Field("2.2", description="layout of the tables")

    @field_validator("edition", mode="before")
    @classmethod
    def _yaml_number(cls, value: Any) -> Any:
        # YAML reads a bare 2.2 as a number.
        return str(value) if isinstance(value, float) else value


class Resources(Section):
    memory_mb: int = Field(4000, ge=200, description="memory in MB that is requested for a data stage")
    threads: PositiveInt = Field(2, description="threads of a data stage that uses several")
    image_processes: PositiveInt = Field(8, description="processes that decode radiographs, at most --cores")


class Images(Section):
    which: Literal["needed", "all_ap"] = Field(
        "needed", description="radiographs of the cohorts, or all AP radiographs"
    )
    broken_share: float = Field(
        0.01, ge=0, le=1, description="largest share of broken or missing JPEGs, 0 to 1; above it the build stops"
    )
    allow_missing: bool = Field(
        False,
        description="true for a part of the radiographs: missing JPEGs are listed and do not count in broken_share",
    )
    jobs: PositiveInt = Field(1, description="number of jobs that decode; a cluster can run them at the same time")


class Notes(Section):
    encoder: str = Field(
        "dmis-lab/biobert-base-cased-v1.2",
        description="note encoder: a local folder, a hub name, or `tiny` for a small random one (trials only)",
    )
    storage: Literal["float16", "int8", "tokens"] = Field(
        "float16", description="token vectors as float16 or int8, or token ids (embedded during training)"
    )
    max_tokens: PositiveInt = Field(
        MAX_NOTE_TOKENS,
        description="word pieces that are kept of a note, and of all notes of a sample together; at most as many as "
        "the encoder has positions",
    )
    batch_tokens: PositiveInt = Field(8192, description="word pieces in a batch of the encoder, padding included")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the encoder runs")
    jobs: PositiveInt = Field(
        1, description="number of jobs that embed; a cluster can run them at the same time, each with a GPU"
    )
    reports: int = Field(
        3, ge=1, le=16, description="radiology reports of a sample at most, the newest (option `notes: radiology`)"
    )


class Store(Section):
    path: Path | None = Field(None, description="folder of the store; null: <output>/store")
    group_readable: bool = Field(True, description="true: the group can read the store; others never can")


class Report(Section):
    suppress_below: int = Field(10, ge=0, description="tables and pages hide counts from 1 to this number - 1")


COMPUTING = {
    "images": ("jobs",),
    "notes": ("batch_tokens", "device", "jobs"),
    "train": ("device", "data_device", "workers", "threads"),
}
"""Settings that only decide where and how fast something is computed: after a change nothing is made again."""


class Config(Section):
    """Everything a user can set. Loaded by `load_config`; ``workflow/config/default.yaml`` explains every key."""

    preset: Literal["demo", "paper"] | None = Field(
        None, description="named settings, which yours override; without raw.mimiciv it is demo"
    )
    raw: Raw = Field(default_factory=Raw, description="the three PhysioNet folders")
    output: Path = Field(Path("results"), description="folder of all results")
    protocol: Literal["flexcare", "corrected"] = Field(
        "flexcare", description="flexcare: the published benchmark; corrected: with its known errors corrected"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="single options that differ from the protocol")
    temporal: Temporal = Field(
        default_factory=Temporal, description="groups of years of each split, where option split is temporal"
    )
    tasks: tuple[TaskName, ...] = Field(
        PAPER_TASKS, description="tasks whose cohorts `cohorts` and `all` build: names of files in flexcare_data/tasks/"
    )
    synthetic: Synthetic = Field(default_factory=Synthetic, description="the embedded fabricated data")
    store: Store = Field(default_factory=Store, description="the store of all stages, which a lab can share")
    resources: Resources = Field(default_factory=Resources, description="threads and memory of the data stages")
    images: Images = Field(default_factory=Images, description="radiographs")
    notes: Notes = Field(default_factory=Notes, description="note encoder and storage")
    train: Train = Field(default_factory=Train, description="models and training")
    report: Report = Field(default_factory=Report, description="tables, figures, report")

    @field_validator("options")
    @classmethod
    def _known_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        Options.model_validate(value)
        return value

    @model_validator(mode="after")
    def _experts(self) -> Config:
        if self.train.experts_per_token > self.train.experts:
            raise ValueError("train.experts_per_token is above train.experts")
        return self

    @property
    def is_synthetic(self) -> bool:
        """True where the embedded fabricated data is used."""
        return self.raw.mimiciv is None

    @property
    def resolved_options(self) -> Options:
        """Options of the protocol, overridden by single options."""
        return resolve(self.protocol, self.options)

    def deciding(self) -> dict[str, Any]:
        """The settings that decide results, as JSON values, for the pages.

        Left out are paths (raw folders, output, store), settings that only decide where and how fast to compute, and
        settings of single models that are null.
        """
        content = self.model_dump(mode="json", exclude={"output", "store", "resources"})
        models = content["train"]["models"]
        content["train"]["models"] = {
            model: decided
            for model, own in models.items()
            if (decided := {name: value for name, value in own.items() if value is not None})
        }
        content["raw"] = {name: "set" if path else None for name, path in content["raw"].items()}
        for section, names in COMPUTING.items():
            for name in names:
                del content[section][name]
        return content

    @property
    def store_path(self) -> Path:
        return self.store.path or self.output / "store"


def load_config(user: dict[str, Any]) -> Config:
    """The configuration, overridden by ``user`` (nested dict; values may be text, as ``--config`` gives them).

    Where neither ``raw.mimiciv`` nor ``preset`` is set, the preset ``demo`` applies: its sizes suit the embedded data.

    Raises:
        ConfigError: one line per mistake, with the nearest known key or value.
    """
    merged = yaml.safe_load((CONFIG_DIR / "default.yaml").read_text())
    raw = user.get("raw") or {}
    preset = user.get("preset") or (None if isinstance(raw, dict) and raw.get("mimiciv") else "demo")
    if preset in ("demo", "paper"):
        merged = _merge(merged, yaml.safe_load((CONFIG_DIR / f"{preset}.yaml").read_text()) or {})
    merged = _merge(merged, user)
    merged["preset"] = preset
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("wrong configuration:\n" + "\n".join(_lines(error))) from None


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _lines(error: ValidationError) -> list[str]:
    lines = []
    for mistake in error.errors():
        path = [str(part) for part in mistake["loc"]]
        where = ".".join(path) or "configuration"
        if mistake["type"] == "extra_forbidden":
            line = f"  {where}: unknown key" + _suggest(path[-1], _known_keys(path[:-1]))
        elif mistake["type"] == "literal_error":
            expected = mistake["ctx"]["expected"]
            known = [word.strip("' ") for word in expected.replace(" or ", ", ").split(",")]
            line = f"  {where}: expected {expected}, got {mistake['input']!r}" + _suggest(str(mistake["input"]), known)
        else:
            line = f"  {where}: {mistake['msg']}, got {mistake['input']!r}"
        lines.append(line)
    return lines


def _suggest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}" if known else ""


def _known_keys(path: list[str]) -> list[str]:
    model: Any = Options if path[:1] == ["options"] else Config
    for name in path:
        if name == "options":
            return list(Options.model_fields)
        field = model.model_fields.get(name)
        annotation = field.annotation if field else None
        if annotation is None or get_origin(annotation) or not issubclass(annotation, BaseModel):
            return []
        model = annotation
    return list(model.model_fields)
