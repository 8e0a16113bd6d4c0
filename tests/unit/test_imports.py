"""What the import contracts in pyproject.toml cannot check: nothing is unpickled, and rules hold no logic."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support.paths import ROOT

UNSAFE = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
HEAVY = {"duckdb", "numpy", "pandas", "polars", "pyarrow", "torch", "transformers"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """First part of the absolute names that ``path`` imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ["flexcare_data", "flexcare_model"])
def test_nothing_is_pickled(package):
    """A shard or a checkpoint from elsewhere must not be able to run code."""
    assert len(modules(package)) > 10
    for path in modules(package):
        assert imported(path).isdisjoint(UNSAFE), path
        assert "allow_pickle=True" not in path.read_text(), path


@pytest.mark.parametrize("package", ["flexcare_data", "flexcare_model"])
def test_imports_are_absolute(package):
    """The code digest and a reader both follow imports by their full name."""
    for path in modules(package):
        nodes = ast.walk(ast.parse(path.read_text()))
        relative = [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level]
        assert relative == [], path


def test_rules_hold_no_logic():
    """A rule runs one printable command. Its functions choose paths, so they need no library of tables or tensors."""
    for path in [ROOT / "Snakefile", *sorted((ROOT / "rules").rglob("*.smk"))]:
        lines = [line.strip() for line in path.read_text().splitlines()]
        assert not [line for line in lines if line in ("run:", "script:", "notebook:")], path
        imports = [line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))]
        assert HEAVY.isdisjoint(imports), path
