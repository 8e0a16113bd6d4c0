"""A matrix over every configuration key, with Snakemake: change the key alone, run one command, look at the target.

One output folder sees all changes one after another, on the store that the first build filled: synthetic data for the
settings, raw folders of a user for the options of the benchmark. The jobs of each command must be exactly those whose
products the store lacks, and the links that show something else; `tests/unit/data/test_keys.py` has, written by hand,
which products these are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.builds_of_workflow import TINY, jobs, merged, plan_and_build, snakemake
from support.settings_matrix import MODEL_SETTINGS, OPTIONS, SETTINGS, changed

from flexcare_data.config import load_config
from flexcare_data.plan import Plan, Product
from flexcare_data.publish import is_published
from flexcare_data.store.folders import is_complete
from flexcare_model.plan import ModelPlan

pytestmark = [pytest.mark.slow, pytest.mark.builds]

SHARED = ("stays", "splits", "events", "hourly", "sections", "radiographs")
TARGETS = {"train": "baselines", "report": "table2"}
"""Target of the keys of a section; `samples` where none is named."""
TARGET_OF = {
    "train.drg_subset": "drg_transfer",
    **{
        f"train.{name}": "flexcare"
        for name in (
            "tasks", "epochs", "lr", "attention_mask", "covariance_normaliser", "decorr_weight", "decorr_present_only",
            "moe_weight", "experts", "experts_per_token", "temperature", "task_token",
        )
    },
}  # fmt: skip
"""Target of single keys."""
ELSEWHERE = {
    "preset": "many settings at once",
    "raw.mimiciv": "test_builds.py: synthetic data, real data, and tables with other content",
    "raw.mimic_cxr_jpg": "needs raw folders: in REAL below",
    "raw.mimic_iv_note": "needs raw folders: in REAL below",
    "notes.encoder": "a name that is not on this machine; a local folder is in LOCAL below",
    "train.precision": "bfloat16 needs CUDA",
    "train.device": "auto is what this machine has",
}
"""Keys whose value of the shared matrix cannot be built here."""
PLANNED = ["train.precision", "preset"]
"""Of these only the plan is looked at."""


def products_of(target: str, plan: Plan) -> list[Product]:
    """The products that ``target`` publishes, written down apart from the rules."""
    models = ModelPlan(plan)
    if target == "samples":
        stages = [plan.product(name) for name in (*SHARED, *plan.cohorts, "audit", "images", "notes")]
        return [*stages, models.fingerprint]
    if target == "flexcare":
        return models.runs(["flexcare"], ["six_tasks"])
    if target == "baselines":
        return models.baseline_runs(plan.config.train.baselines)
    if target == "drg_transfer":
        return models.transfer_runs(plan.config.train.baselines)
    return [models.table(target)]


def exists(product: Product) -> bool:
    """True if the store, or the output folder, has ``product``."""
    is_stage = product.done.parent.name == "stages"
    return is_complete(product.folder) if is_stage else product.done.exists()


def rule_of(product: Product) -> str:
    """The rule that makes ``product``."""
    kind = product.name.partition("-")[0]
    return {"run": "train"}.get(kind, kind)


def expected_jobs(target: str, plan: Plan) -> dict[str, int]:
    """Jobs of ``target``: what does not exist and is needed, and links that show something else."""
    wanted = products_of(target, plan)
    counts = Counter({target: 1})
    seen, todo = set(), list(wanted)
    while todo:
        product = todo.pop()
        name = f"{product.name}-{product.key}"
        if name not in seen and not exists(product):
            seen.add(name)
            counts[rule_of(product)] += 1
            todo += product.inputs.values()
    links = sum(not exists(product) or not is_published(product, plan.config.output) for product in wanted)
    return dict(counts + Counter({"publish": links})) if links else {}


def check(folder: Path, config: Mapping[str, Any], target: str) -> None:
    """Run ``target`` in ``folder``: the jobs are the expected ones, and what is published is of this configuration."""
    config = {**config, "output": str(folder / config.get("output", "results"))}
    expected = expected_jobs(target, Plan(load_config(config)))
    if expected:
        built = plan_and_build(folder, target, config=config)
        assert {name: count for name, count in built.items() if name != "check_raw"} == expected
    else:
        assert "Nothing to be done" in snakemake(folder, "-n", target, config=config)
    plan = Plan(load_config(config))
    for product in products_of(target, plan):
        assert exists(product) and is_published(product, plan.config.output)
        manifest = product.folder / "manifest.json"
        if product.done.parent.name == "stages":
            assert json.loads(manifest.read_text())["spec"] == product.spec


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A folder with `all` of `TINY`, and its configuration."""
    folder = tmp_path_factory.mktemp("synthetic")
    config = merged(TINY, {"store": {"path": str(folder / "store")}})
    snakemake(folder, "--cores", "2", "samples", "flexcare", "baselines", "table2", config=config)
    return folder, config


@pytest.fixture(scope="module")
def real(synthetic, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A folder with `samples` of the same data as raw folders of a user, in a store of its own."""
    folder = tmp_path_factory.mktemp("real")
    raw = next((synthetic[0] / "store").glob("synthetic-*"))
    roots = {name: str(raw / name) for name in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")}
    config = merged(TINY, {"raw": roots, "preset": "demo", "store": {"path": str(folder / "store")}})
    snakemake(folder, "--cores", "2", "samples", config=config)
    return folder, config


@pytest.mark.parametrize("path", [path for path in SETTINGS if path not in ELSEWHERE])
def test_a_setting(synthetic, path):
    folder, config = synthetic
    target = TARGET_OF.get(path, TARGETS.get(path.partition(".")[0], "samples"))
    value = str(folder / "other_store") if path == "store.path" else SETTINGS[path][0]
    check(folder, changed(config, path, value), target)


@pytest.mark.parametrize("path", ["train.models.mt.answer", "train.models.flexcare.copied_layers"])
def test_a_setting_of_a_model(synthetic, path):
    """Two for all: the others move keys in the same way, see `tests/unit/data/test_keys.py`."""
    folder, config = synthetic
    target = "baselines" if ".mt." in path else "flexcare"
    check(folder, changed(config, path, MODEL_SETTINGS[path][0]), target)


@pytest.mark.parametrize("path", PLANNED)
def test_a_setting_that_cannot_be_built_here_is_planned(synthetic, path):
    folder, config = synthetic
    value = SETTINGS[path][0]
    target = "flexcare"
    new = changed(config, path, value)
    planned = jobs(snakemake(folder, "-n", target, config=new))
    assert planned["train"] == len(products_of(target, Plan(load_config({**new, "output": str(folder / "results")}))))


def test_a_local_encoder(synthetic):
    folder, config = synthetic
    encoder = next((folder / "store").glob("encoder-*"))
    check(folder, changed(config, "notes.encoder", str(encoder)), "samples")


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_on_raw_folders_of_a_user(real, option):
    folder, config = real
    check(folder, changed(config, f"options.{option}", OPTIONS[option][0]), "samples")


@pytest.mark.parametrize("path", ["raw.mimic_cxr_jpg", "raw.mimic_iv_note"])
def test_a_data_set_less(real, path):
    folder, config = real
    check(folder, changed(config, path, None), "samples")


def test_back_to_the_first_configuration(synthetic, real):
    """After all changes: links only, and in a second output folder of the same store as well."""
    for folder, config in (synthetic, real):
        check(folder, config, "samples")
        check(folder, changed(config, "output", "another"), "samples")
        assert set(jobs(snakemake(folder, "-n", "samples", config=config))) == set()
