"""Every configuration key with another value, and what that value decides.

Used by two matrices: keys (tests/unit/data/test_keys.py) and whole builds (tests/workflow/test_matrix.py).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from flexcare_data.discovery import models, task_names
from flexcare_data.plan import cohort_stage

COHORTS = tuple(cohort_stage(task) for task in task_names())
SAMPLED = ("cohort-length_of_stay", "cohort-decompensation")

OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "death_label": ("expire_flag", ("stays",)),
    "age": ("at_admission", ("stays",)),
    "readmission": ("hospital", ("stays",)),
    "nested": ("ignored", ("stays", "audit")),
    "after_death": ("dropped", ("stays", "cohort-diagnosis", "cohort-drg", "audit")),
    "asked": ("alive", ("cohort-in_hospital_mortality", "cohort-decompensation", "audit")),
    "availability": ("storetime", ("hourly", "cohort-diagnosis", "audit")),
    "icd": ("version_aware", ("stays",)),
    "icd10": ("ccs", ("stays",)),
    "split": ("hash", ("splits",)),
    "fluids": ("blood", ("events",)),
    "fio2": ("above_one", ("events",)),
    "height": ("inches_converted", ("events", "hourly", "cohort-diagnosis")),
    "gcs_total": ("derived", ("events",)),
    "capillary_refill": ("mapped", ("events",)),
    "duplicates": ("mean", ("events",)),
    "ranges": ("on", ("events",)),
    "lab_without_hadm": ("by_time", ("events",)),
    "edges": ("left", ("hourly", "cohort-diagnosis", "audit")),
    "gcs_spellings": ("merged", ("hourly", "cohort-diagnosis")),
    "scaler": ("train", ("hourly", "audit")),
    "note_cleaning": ("keep", ("sections",)),
    "bhc_fallback": ("on", ("sections",)),
    "sampling": ("hash", SAMPLED),
    "notes": ("none", (*COHORTS, "audit")),
    "repeats": ("newest", COHORTS),
}
"""Each option of the protocol: another value, and the stages that read it."""

_BOTH = ("run flexcare", "run mt", "table3")
_FLEXCARE = ("run flexcare", "table3")
SETTINGS: dict[str, tuple[object, tuple[str, ...]]] = {
    "preset": ("paper", ()),  # checked apart: it is many settings at once
    "raw.mimiciv": (None, ()),
    "raw.mimic_cxr_jpg": (None, ()),
    "raw.mimic_iv_note": (None, ()),
    "output": ("elsewhere", ()),
    "protocol": ("corrected", ("stays", "splits", "events", "hourly", "sections", *COHORTS, "audit")),
    "options": ({}, ()),
    "temporal.train": (["2008 - 2010"], ()),  # nothing reads them without split: temporal
    "temporal.val": (["2005 - 2007"], ()),
    "temporal.test": (["2017 - 2019"], ()),
    "tasks": (["readmission", "in_hospital_mortality"], ("audit", "images", "notes", "table2", *_BOTH)),
    "synthetic.patients": (60, ("synthetic",)),
    "synthetic.seed": (9, ("synthetic",)),
    "synthetic.edition": ("3.1", ("synthetic",)),
    "store.path": ("/lab", ()),
    "store.group_readable": (False, ()),
    "resources.memory_mb": (300, ()),
    "resources.threads": (1, ()),
    "resources.image_processes": (1, ()),
    "images.which": ("all_ap", ("images",)),
    "images.broken_share": (0.5, ("images",)),
    "images.allow_missing": (True, ("images",)),
    "images.jobs": (2, ()),
    "notes.encoder": ("some/encoder", ("encoder",)),
    "notes.storage": ("int8", ("notes",)),
    "notes.max_tokens": (16, ("notes",)),
    "notes.batch_tokens": (1024, ()),
    "notes.device": ("auto", ()),
    "notes.jobs": (2, ()),
    "notes.reports": (2, ()),  # read only under `notes: radiology`, see tests/unit/data/test_keys.py
    "train.device": ("auto", ()),
    "train.precision": ("bfloat16", _BOTH),
    "train.compile": (True, _BOTH),
    "train.data_device": ("cpu", ()),
    "train.workers": (1, ()),
    "train.threads": (1, ()),
    "train.seeds": ([42, 43], ("table3",)),
    "train.tasks": (["readmission", "phenotyping"], _FLEXCARE),
    "train.hidden_dim": (8, _BOTH),
    "train.layers": (3, _BOTH),
    "train.heads": (4, _BOTH),
    "train.dropout": (0.3, _BOTH),
    "train.batch_size": (17, _BOTH),
    "train.max_hours": (24, _BOTH),
    "train.epochs": (3, _FLEXCARE),
    "train.lr": (0.01, _FLEXCARE),
    "train.baseline_epochs": (9, ("run mt", "table3")),
    "train.baseline_lr": (0.01, ("run mt", "table3")),
    "train.optimizer": ("adamw", _BOTH),
    "train.weight_decay": (1e-4, _BOTH),
    "train.schedule": ("cosine", _BOTH),
    "train.warmup": (2.0, ()),  # read only under `schedule: cosine`
    "train.patience": (3, _BOTH),
    "train.idle_gradients": ("zero", _BOTH),
    "train.attention_mask": ("released", _FLEXCARE),
    "train.covariance_normaliser": ("mean_offdiag", _FLEXCARE),
    "train.decorr_weight": (0.1, _FLEXCARE),
    "train.decorr_present_only": (True, _FLEXCARE),
    "train.moe_weight": (0.1, _FLEXCARE),
    "train.experts": (4, _FLEXCARE),
    "train.experts_per_token": (1, _FLEXCARE),
    "train.temperature": (1.0, _FLEXCARE),
    "train.task_token": ("none", _FLEXCARE),
    "train.note_dropout": (0.1, _BOTH),
    "train.augment": (False, _BOTH),
    "train.drg_subset": ("per_epoch", ()),
    "train.baselines": (["mt"], ("table3",)),
    "report.suppress_below": (3, ("table2", "table3")),
}
"""Every other configuration key: another value, and the products that depend on it directly."""


_TRAINING = {
    "lr": 0.02, "epochs": 7, "optimizer": "adamw", "weight_decay": 1e-4, "schedule": "cosine", "warmup": 2.0,
    "patience": 3, "idle_gradients": "zero",
}  # fmt: skip
_OWN: dict[str, dict[str, object]] = {
    "medfuse": {"order": "task_first", "dropout_at": "series"},
    "mt": {"fusion_layer": 1, "answer": "present", "aux_weight": 0.5},
    "m3care": {"beta": 1e-8, "row_mask": True, "evaluation": "permutations", "bank": 64, "permutations": 3},
    "mmf": {"series": "set", "set_values": 100, "readout": "first_stream", "bottlenecks": 2, "fusion_layer": 1},
    "multimodn": {"decoder": "two_of_32", "rho": 0.5, "shuffle_order": True},
    "flexcare": {
        "attention_mask": "released", "covariance_normaliser": "mean_offdiag", "decorr_weight": 0.1,
        "decorr_present_only": True, "moe_weight": 0.1, "experts": 4, "experts_per_token": 1, "temperature": 1.0,
        "task_token": "none", "note_dropout": 0.1, "copied_layers": True,
    },
}  # fmt: skip
"""Settings that the models declare; a model whose name begins with one of these names is a variant of it."""
_READ_BY = {"flexcare": _FLEXCARE, "mt": ("run mt", "table3"), "mmf": ("table3",)}
"""Products of the matrix that a model decides: its run, and table 3 if it is a baseline there."""
MODEL_SETTINGS: dict[str, tuple[object, tuple[str, ...]]] = {
    f"train.models.{model}.{name}": (value, () if name == "warmup" else _READ_BY.get(model, ()))
    for model in models()
    for name, value in (_TRAINING | next((own for base, own in _OWN.items() if model.startswith(base)), {})).items()
}
"""The same for `train.models`: a setting of one model trains no other model again."""


def changed(config: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """``config`` with another value of the key ``path``, such as ``train.epochs``."""
    result: dict[str, Any] = copy.deepcopy(dict(config))
    place = result
    *sections, name = path.split(".")
    for section in sections:
        place = place.setdefault(section, {})
    place[name] = value
    return result
