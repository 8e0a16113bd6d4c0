"""Which tasks and models there are, found in their folders and read as text: nothing is imported."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

_HERE = Path(__file__).resolve().parent


@cache
def task_names() -> tuple[str, ...]:
    """Names of the tasks: the modules of flexcare_data/tasks/ that assign `TASK`; those of the paper first."""
    from flexcare_data.options import PAPER_TASKS

    found = []
    for path in sorted((_HERE / "tasks").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            if any(isinstance(target, ast.Name) and target.id == "TASK" for target in targets):
                found.append(path.stem)
    return (*PAPER_TASKS, *(name for name in found if name not in PAPER_TASKS))


@cache
def model_classes() -> dict[str, tuple[str, str]]:
    """Module and class of each model by name: every class of `flexcare_model/models/` with a text as its `name`."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted((_HERE.parent / "flexcare_model" / "models").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and (name := _name_of(node)):
                found[name] = (f"flexcare_model.models.{path.stem}", node.name)
    return found


def _name_of(model: ast.ClassDef) -> str | None:
    for node in model.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            (target,) = node.targets
            if isinstance(target, ast.Name) and target.id == "name" and isinstance(node.value.value, str):
                return node.value.value
    return None
