"""The import arrows: who may import whom. Read from the source by ast, so that imports inside functions count too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGES = ("flexcare_data", "flexcare_model")

# Stages never import one another: the table between them is the interface. All of them may use the contracts, and the
# tools below them; no tool knows a stage.
STAGES = {"stays", "splits", "events", "hourly", "notes", "phenotypes", "images"}
CONTRACTS = {"errors", "discovery", "schema", "protocol", "variables", "tasks"}
TOOLS = {
    "raw", "records", "scan", "scan_loop", "cleaning", "series", "draws", "store", "pool", "progress", "source",
    "shares", "decoding", "compiled", "settle", "ahead", "pairs", "radiograph_files",
}  # fmt: skip
ALLOWED = {
    "schema": {"errors"},
    "protocol": set(),
    "variables": {"errors"},
    **dict.fromkeys(sorted(TOOLS), CONTRACTS | TOOLS),
    **dict.fromkeys(sorted(STAGES), CONTRACTS | TOOLS),
    **dict.fromkeys(["tasks", "leakage", "explain"], CONTRACTS | TOOLS),
}
MODEL_MAY_READ = {
    "code_digest", "schema", "tasks", "store", "pool", "variables", "config", "protocol", "progress", "source",
    "errors", "discovery", "shares",
}  # fmt: skip
HEAVY = {"torch", "torchvision", "transformers", "flexcare_model"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Absolute names of what ``path`` imports: modules, and module.name for `from module import name`."""
    names: set[str] = set()
    parts = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def first_party(path: Path, package: str) -> set[str]:
    """First module name below ``package`` of each import: `flexcare_data.tasks.base.Task` counts as tasks."""
    return {name.split(".")[1] for name in imported(path) if name.startswith(package + ".")}


def stage_name(path: Path) -> str:
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


@pytest.mark.parametrize("path", modules("flexcare_data"), ids=lambda path: str(path.relative_to(ROOT)))
def test_data_half_knows_no_model(path):
    assert {name.split(".")[0] for name in imported(path)}.isdisjoint(HEAVY)


@pytest.mark.parametrize("path", modules("flexcare_model"), ids=lambda path: str(path.relative_to(ROOT)))
def test_model_half_reads_contracts_only(path):
    names = {name.removesuffix(".py") for name in first_party(path, "flexcare_data")}
    assert names <= MODEL_MAY_READ


@pytest.mark.parametrize("path", modules("flexcare_data"), ids=lambda path: str(path.relative_to(ROOT)))
def test_stages_do_not_import_one_another(path):
    name = stage_name(path)
    if name in ALLOWED:
        assert first_party(path, "flexcare_data") - {name} <= ALLOWED[name]


def test_layers_and_models_stand_alone():
    """Models take a Batch: neither training nor files are known to them."""
    for path in modules("flexcare_model/models"):
        assert first_party(path, "flexcare_model") <= {"layers", "packing", "batch", "config", "losses", "models"}


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_pickled(package):
    """A shard or checkpoint from elsewhere must not be able to run code."""
    for path in modules(package):
        assert imported(path).isdisjoint({"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}), path
        assert "allow_pickle=True" not in path.read_text(), path


def test_rules_hold_no_functions():
    """rules/common.smk is the one place for functions; no rule runs Python code of its own."""
    for path in sorted((ROOT / "rules").glob("*.smk")):
        lines = path.read_text().splitlines()
        assert not [line for line in lines if line.strip() in ("run:", "script:")], path
        if path.name != "common.smk":
            assert not [line for line in lines if line.startswith("def ")], path
