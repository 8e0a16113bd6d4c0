"""What the source of the two packages says, read as text: nothing is imported, so no model loads torch here.

In: names of modules. Out: a digest of the code that a module runs, and the models that there are.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from flexcare_data.variables import RESOURCES


@cache
def model_classes() -> dict[str, tuple[str, str]]:
    """Module and class of each model by name: every class of `flexcare_model/models/` with a text as its `name`.

    Example:
        >>> model_classes()["mt"]
        ('flexcare_model.models.mt', 'MT')
    """
    package = _source("flexcare_model.models")
    assert package is not None
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(package.parent.glob("*.py")):
        module = f"flexcare_model.models.{path.stem}" if path != package else "flexcare_model.models"
        for node in _tree(module).body:
            if isinstance(node, ast.ClassDef) and (name := _name_of(node)):
                found[name] = (module, node.name)
    return found


def _name_of(model: ast.ClassDef) -> str | None:
    for node in model.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            (target,) = node.targets
            if isinstance(target, ast.Name) and target.id == "name" and isinstance(node.value.value, str):
                return node.value.value
    return None


@cache
def code_digest(*modules: str) -> str:
    """sha256 of the code that ``modules`` run: themselves and what they import from the two packages.

    Comments and docstrings do not count, so that a mended sentence recomputes nothing. Resource tables count with
    the modules that read them.
    """
    total = hashlib.sha256()
    for name in sorted(_closure(modules)):
        total.update(name.encode())
        total.update(_code(name).encode())
        if name == "flexcare_data.variables":
            for path in sorted(RESOURCES.iterdir()):
                total.update(path.read_bytes())
    return total.hexdigest()


@cache
def function_code(module: str, name: str) -> str:
    """Code of a function and of what it uses of its own module, without comments and docstrings."""
    defined: dict[str, ast.stmt] = {}
    for node in _bare_tree(module).body:
        for target in getattr(node, "targets", [getattr(node, "target", node)]):
            defined[getattr(target, "name", getattr(target, "id", ""))] = node
    used: set[str] = set()
    todo = [name]
    while todo:
        if (current := todo.pop()) in defined and current not in used:
            used.add(current)
            todo += [part.id for part in ast.walk(defined[current]) if isinstance(part, ast.Name)]
    return "\n".join(ast.unparse(defined[known]) for known in sorted(used))


def _closure(modules: tuple[str, ...]) -> set[str]:
    known: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name not in known and name.split(".")[0] in ("flexcare_data", "flexcare_model") and _source(name):
            known.add(name)
            todo += _imports(name)
    return known


@cache
def _source(module: str) -> Path | None:
    top, *rest = module.split(".")
    spec = find_spec(top)
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    if folder is None:
        return None
    path = folder.joinpath(*rest)
    if (path / "__init__.py").is_file():
        return path / "__init__.py"
    return path.with_suffix(".py") if rest and path.with_suffix(".py").is_file() else None


@cache
def _tree(module: str) -> ast.Module:
    path = _source(module)
    assert path is not None
    return ast.parse(path.read_text())


def _imports(module: str) -> list[str]:
    found: list[str] = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    return found


def _code(module: str) -> str:
    """Source without comments and docstrings."""
    return ast.unparse(_bare_tree(module))


def _bare_tree(module: str) -> ast.Module:
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [part for part in body if not _is_text(part)] or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
