"""Digest of the code that a key covers: the modules that a command runs, and the data files that they open.

In: names of modules. Out: a digest of their import closure within the two packages, read from the source as text:
nothing is imported. Comments, docstrings and the attributes of a model that only reports show do not count, so a
change of them rebuilds nothing.

The closure follows absolute and relative imports, also inside functions, `import_module("literal")`, the `__init__.py`
of every package on the way, and the files named in `package_file("...")` and `package_folder("...")`. It does not
follow imports under `if TYPE_CHECKING:` and inside functions of an `__init__.py`, which run only on demand.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flexcare_data.discovery import SHOWN_ONLY
from flexcare_data.hashing import user_cache, value_digest, write_private
from flexcare_data.package_files import package_file, package_folder

PACKAGES = ("flexcare_data", "flexcare_model")


@dataclass(frozen=True)
class _ModuleCode:
    """The part of one module: a digest of its code, the modules it imports, the data files it opens."""

    code: str
    imports: tuple[str, ...]
    files: tuple[str, ...]
    folders: tuple[str, ...]


@cache
def code_digest(*modules: str) -> str:
    """sha256 (16 hex digits) of the code that ``modules`` run and of the data files that this code opens."""
    total: dict[str, str] = {}
    for name in sorted(closure(*modules)):
        total[name] = _module_code(name).code
    for path in opened_files(*modules):
        total[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return value_digest(total)[:16]


def changed_code(planned: dict[str, Any] | None) -> str:
    """Names of the planned modules if their code has changed since planning, else an empty text.

    Args:
        planned: the ``code`` of a spec, ``{"modules": [...], "digest": "..."}``; None where nothing was planned.
    """
    if not planned:
        return ""
    for remembered in (code_digest, closure, opened_files, _path, _module_code):
        remembered.cache_clear()
    modules = planned["modules"]
    return "" if code_digest(*modules) == planned["digest"] else ", ".join(modules)


@cache
def closure(*modules: str) -> frozenset[str]:
    """Names of ``modules`` and of all modules of the two packages that they execute.

    Raises:
        ValueError: for a name that is no module of the two packages.
    """
    known: set[str] = set()
    todo = list(modules)
    for name in modules:
        if _path(name) is None:
            raise ValueError(f"code digest: expected a module of {' or '.join(PACKAGES)}, got {name}")
    while todo:
        name = todo.pop()
        if name in known or _path(name) is None:
            continue
        known.add(name)
        parts = name.split(".")
        todo += [".".join(parts[:n]) for n in range(1, len(parts))]
        todo += _module_code(name).imports
    return frozenset(known)


@cache
def opened_files(*modules: str) -> tuple[Path, ...]:
    """Data files that the closure of ``modules`` opens, sorted."""
    found: set[Path] = set()
    for name in closure(*modules):
        module = _module_code(name)
        found |= {package_file(file) for file in module.files}
        for folder in module.folders:
            found |= {path for path in package_folder(folder).rglob("*") if path.is_file()}
    return tuple(sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts))


@cache
def _path(module: str) -> Path | None:
    """The source of a module of the two packages, None for anything else (a class, a module of a library)."""
    top, *rest = module.split(".")
    if top not in PACKAGES:
        return None
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]).joinpath(*rest)
    if (path / "__init__.py").is_file():
        return path / "__init__.py"
    return path.with_suffix(".py") if rest and path.with_suffix(".py").is_file() else None


@cache
def _module_code(module: str) -> _ModuleCode:
    path = _path(module)
    assert path is not None
    text = path.read_bytes()
    # Parsing all modules takes a second, so the result is cached by the content of the file.
    folder = user_cache("code")
    name = hashlib.sha256(module.encode() + b"\0" + text + _OWN_VERSION.encode()).hexdigest()[:32]
    remembered = folder / f"{name}.json" if folder else None
    if remembered and remembered.is_file():
        try:
            code, *lists = json.loads(remembered.read_text())
            return _ModuleCode(code, *map(tuple, lists))
        except (ValueError, TypeError):
            remembered.unlink(missing_ok=True)
    contribution = _read(module, path, text.decode())
    if remembered:
        write_private(
            remembered, json.dumps([contribution.code, contribution.imports, contribution.files, contribution.folders])
        )
    return contribution


def _own_version() -> str:
    """A digest of the code that decides what counts, and the Python that parses it."""
    names = ("code_digest.py", "discovery.py", "package_files.py")
    texts = [hashlib.sha256(Path(__file__).with_name(name).read_bytes()).hexdigest() for name in names]
    return " ".join([*texts, *map(str, sys.version_info[:2])])


_OWN_VERSION = _own_version()
"""Results that another version of this code, or another Python, remembered are not used."""


def _read(module: str, path: Path, text: str) -> _ModuleCode:
    is_package = path.name == "__init__.py"
    tree = ast.parse(text)
    imports, files, folders = [], [], []
    for node in _executed(tree, into_functions=not is_package):
        if isinstance(node, ast.Import):
            imports += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _base(module, node, is_package)
            imports += [base, *(f"{base}.{name.name}" for name in node.names)]
        elif isinstance(node, ast.Call) and (literal := _literal(node)):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            imports += [literal] if called == "import_module" else []
            files += [literal] if called == "package_file" else []
            folders += [literal] if called == "package_folder" else []
    code = hashlib.sha256(ast.unparse(_without_texts(tree)).encode()).hexdigest()
    return _ModuleCode(code, tuple(sorted(set(imports))), tuple(sorted(set(files))), tuple(sorted(set(folders))))


def _executed(node: ast.AST, *, into_functions: bool) -> Iterator[ast.AST]:
    """Nodes below ``node`` that can be executed: not those for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not into_functions:
            continue
        yield child
        yield from _executed(child, into_functions=into_functions)


def _base(module: str, node: ast.ImportFrom, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _literal(call: ast.Call) -> str | None:
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def _without_texts(tree: ast.Module) -> ast.Module:
    """The tree without docstrings and without what only reports show."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [part for part in body if not _is_text(part)]
            if isinstance(node, ast.ClassDef):
                kept = [part for part in kept if not _is_shown_only(part)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_shown_only(node: ast.AST) -> bool:
    """True for ``title = ...`` and the like in a class, a literal that only reports read."""
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    return isinstance(target, ast.Name) and target.id in SHOWN_ONLY


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
