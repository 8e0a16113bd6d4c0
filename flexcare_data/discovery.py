"""List the models and tasks by reading their files as text: nothing is imported, so this takes milliseconds.

In: the folders `flexcare_model/models/` and `flexcare_data/tasks/`. Out: `models()` and `tasks()`, what each file
declares: its name, the settings of a model, and for the reports its title, order, colour and the comparison that it
belongs to. Only literals are read. `MODELS` and `TASKS` import a file when it is used.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flexcare_data.errors import UserError

ROLES = ("baseline", "reference", "ablation", "task_token", "variant", "unlisted")
MARKS = ("CT", "RD", "MoE")
"""The parts of FlexCare that an ablation has or lacks: combination tokens, decorrelation, mixture of experts."""
USUAL_ORDER = 50
"""Order of a model or task that declares none: after those of the paper."""


class DeclarationError(UserError):
    """The file of a model or of a task has a wrong declaration."""


@dataclass(frozen=True)
class DeclaredSetting:
    """A setting that only some models have: `train.models.<model>.<name>`.

    Attributes:
        default: the value without the configuration; its type is that of the setting. None: that of `train.<name>`.
        choices: of a text, its possible values.
        least, most: of a number, its limits, inclusive.
        meaning: one line for `default.yaml`.
    """

    name: str
    default: bool | int | float | str | None = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    meaning: str = ""


@dataclass(frozen=True)
class DeclaredModel:
    """What the class of a model declares; `flexcare_model.models.base.Model` explains the fields.

    ``multi_task`` is inherited from the base class, the other fields are the class's own.

    Attributes:
        bases: the models that it derives from, the nearest first.
        settings: those that the class itself declares; it also has those of its ``bases``.
    """

    name: str
    module: str
    class_name: str
    title: str
    multi_task: bool = False
    role: str = "baseline"
    table_order: int = USUAL_ORDER
    marks: tuple[bool, ...] = ()
    colour: str = ""
    marker: str = ""
    hatch: str = ""
    colour_alone: str = ""
    marker_alone: str = ""
    bases: tuple[str, ...] = ()
    settings: tuple[DeclaredSetting, ...] = ()


_COMPUTED = frozenset(("module", "class_name", "multi_task", "bases", "settings"))
SHOWN_ONLY = frozenset(field.name for field in fields(DeclaredModel)) - {"name", *_COMPUTED}
"""Attributes that only reports use; a change of them trains nothing again."""


@dataclass(frozen=True)
class DeclaredTask:
    """What the `TASK` of a task's file declares; `flexcare_data.tasks.base.Task` explains the fields."""

    name: str
    module: str
    id: int
    order: int = USUAL_ORDER


@cache
def models() -> dict[str, DeclaredModel]:
    """All models by name: every class of `flexcare_model/models/` with a text as its `name`; by role, order and name.

    Raises:
        DeclarationError: naming the file and what was expected.

    Example:
        >>> models()["mt"].class_name, models()["mt"].title, models()["mt"].role
        ('MT', 'MT', 'baseline')
        >>> list(models())[:6]
        ['medfuse', 'mt', 'm3care', 'mmf', 'multimodn', 'flexcare']
    """
    classes = {path: _classes(path) for path in _files("flexcare_model", "models")}
    found: dict[str, DeclaredModel] = {}
    for path, nodes in classes.items():
        for node in nodes.values():
            if "name" not in (declared := _assigned(node)):
                continue
            model = _model(path, node, declared, _is_multi_task(path, node.name, classes))
            model = replace(model, bases=_bases(path, node, classes), settings=_settings(path, node))
            for other in found.values():
                where = f"{_shown(path)}, class {node.name}"
                if other.name == model.name:
                    raise DeclarationError(f"{where}: expected a name that no other model has, got {model.name!r}")
                if other.title == model.title:
                    raise DeclarationError(f"{where}: expected a title that no other model has, got {model.title!r}")
            found[model.name] = model
    references = [model.name for model in found.values() if model.role == "reference"]
    if len(references) != 1:
        raise DeclarationError(f"models: expected one model with the role 'reference', got {references}")
    in_order = sorted(found.values(), key=lambda model: (ROLES.index(model.role), model.table_order, model.name))
    return {model.name: model for model in in_order}


def models_of(role: str) -> tuple[DeclaredModel, ...]:
    """The models of one of `ROLES`, in their order.

    Example:
        >>> [model.name for model in models_of("task_token")]
        ['flexcare_no_task_token']
    """
    return tuple(model for model in models().values() if model.role == role)


def reference() -> DeclaredModel:
    """The model that the others are compared with: FlexCare."""
    return models_of("reference")[0]


@cache
def tasks() -> dict[str, DeclaredTask]:
    """All tasks by name: every module of `flexcare_data/tasks/` with a `TASK`; by order, then by id.

    Raises:
        DeclarationError: naming the file and what was expected.

    Example:
        >>> list(tasks())[:2], tasks()["drg"].id
        (['in_hospital_mortality', 'length_of_stay'], 6)
    """
    found: dict[str, DeclaredTask] = {}
    for path in _files("flexcare_data", "tasks"):
        if (call := _task_call(path)) is None:
            continue
        where = f"{_shown(path)}, line {call.lineno}"
        given = {word.arg: word.value for word in call.keywords if word.arg in ("id", "order")}
        values = {name: _literal(value, f"{where}: {name}") for name, value in given.items()}
        for name in ("id", "order"):
            if not isinstance(values.get(name, 0 if name == "order" else None), int):
                raise DeclarationError(f"{where}: expected {name}= with a whole number, got {values.get(name)!r}")
        task = DeclaredTask(path.stem, f"flexcare_data.tasks.{path.stem}", **values)
        if twin := next((other.name for other in found.values() if other.id == task.id), None):
            raise DeclarationError(f"{where}: expected an id that no other task has, got {task.id}, that of {twin}")
        found[task.name] = task
    return {task.name: task for task in sorted(found.values(), key=lambda task: (task.order, task.id))}


def task_names() -> tuple[str, ...]:
    """Names of all tasks, in their order."""
    return tuple(tasks())


def _files(package: str, folder: str) -> Iterator[Path]:
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    place = Path(spec.submodule_search_locations[0]) / folder
    return (path for path in sorted(place.glob("*.py")) if path.name != "__init__.py")


def _shown(path: Path) -> str:
    return "/".join(path.parts[-3:])


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        line = f", line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else f": {error.reason}"
        raise DeclarationError(f"{_shown(path)}{line}") from None


def _literal(node: ast.expr, what: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise DeclarationError(f"{what}: expected a literal, got {ast.unparse(node)}") from None


# --- models -----------------------------------------------------------------------------------------------------


def _classes(path: Path) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in _tree(path).body if isinstance(node, ast.ClassDef)}


def _assigned(node: ast.ClassDef) -> dict[str, ast.expr]:
    """Values that the body of a class assigns to plain names."""
    found: dict[str, ast.expr] = {}
    for part in node.body:
        if isinstance(part, ast.Assign):
            found |= {target.id: part.value for target in part.targets if isinstance(target, ast.Name)}
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.value is not None:
            found[part.target.id] = part.value
    return found


def _is_multi_task(path: Path, name: str, classes: dict[Path, dict[str, ast.ClassDef]]) -> bool:
    """``multi_task`` of a class or, where it has none, of its first base that has one."""
    node = classes[path].get(name)
    if node is None:
        return False
    if (value := _assigned(node).get("multi_task")) is not None:
        return bool(_literal(value, f"{_shown(path)}, class {name}: multi_task"))
    return any(_is_multi_task(origin, parent, classes) for origin, parent in _parents(path, node, classes))


def _parents(
    path: Path, node: ast.ClassDef, classes: dict[Path, dict[str, ast.ClassDef]]
) -> Iterator[tuple[Path, str]]:
    """Files and names of the bases of a class that are classes of these files."""
    for base in node.bases:
        parent = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
        origin = (
            path if parent in classes[path] else next((other for other in classes if parent in classes[other]), None)
        )
        if origin is not None and parent != node.name:
            yield origin, parent


def _bases(path: Path, node: ast.ClassDef, classes: dict[Path, dict[str, ast.ClassDef]]) -> tuple[str, ...]:
    """Names of the models among the bases of a class, the nearest first."""
    found: list[str] = []
    for origin, parent in _parents(path, node, classes):
        above = classes[origin][parent]
        if (name := _assigned(above).get("name")) is not None:
            found.append(_literal(name, f"{_shown(origin)}, class {parent}: name"))
        found += _bases(origin, above, classes)
    return tuple(dict.fromkeys(found))


def _settings(path: Path, node: ast.ClassDef) -> tuple[DeclaredSetting, ...]:
    """What the body of a class declares as ``settings``."""
    where = f"{_shown(path)}, class {node.name}: settings"
    if (written := _assigned(node).get("settings")) is None:
        return ()
    declared = _literal(written, where)
    if not isinstance(declared, dict) or not all(isinstance(one, dict) for one in declared.values()):
        raise DeclarationError(f"{where}: expected a dict of dicts by name, got {declared!r}")
    known, found = {field.name for field in fields(DeclaredSetting)} - {"name"}, []
    for name, values in declared.items():
        if not (isinstance(name, str) and re.fullmatch("[a-z0-9_]+", name)):
            raise DeclarationError(f"{where}: expected names of lower-case letters, digits and _, got {name!r}")
        if unknown := sorted(set(values) - known):
            raise DeclarationError(f"{where}, {name}: expected {', '.join(sorted(known))}; got {unknown[0]}")
        setting = DeclaredSetting(name, **values)
        is_text, given = isinstance(setting.default, str), setting.default is not None
        if given and not isinstance(setting.default, bool | int | float | str):
            raise DeclarationError(f"{where}, {name}: expected a default that is a number, a text, True or False")
        if is_text and setting.meaning and setting.default not in setting.choices:
            raise DeclarationError(f"{where}, {name}: expected choices that contain the default {setting.default!r}")
        found.append(setting)
    return tuple(found)


def _model(path: Path, node: ast.ClassDef, declared: dict[str, ast.expr], multi_task: bool) -> DeclaredModel:
    where = f"{_shown(path)}, class {node.name}"
    read = {field.name for field in fields(DeclaredModel)} - _COMPUTED
    values = {name: _literal(value, f"{where}: {name}") for name, value in declared.items() if name in read}
    for name, value in values.items():
        expected, is_valid = _EXPECTED[name]
        if not is_valid(value):
            raise DeclarationError(f"{where}: expected {name} to be {expected}, got {value!r}")
    role = values.get("role", "baseline")
    if (role in ("ablation", "reference")) != (len(values.get("marks", ())) == len(MARKS)):
        raise DeclarationError(
            f"{where}: expected marks with {len(MARKS)} entries ({', '.join(MARKS)}) for an ablation, and none for "
            f"other models; got role {role!r} and {len(values.get('marks', ()))} marks"
        )
    if role in ("ablation", "task_token", "variant", "reference") and not multi_task:
        raise DeclarationError(f"{where}: expected multi_task = True, because the role is {role!r}")
    module = f"flexcare_model.models.{path.stem}"
    return DeclaredModel(
        module=module, class_name=node.name, multi_task=multi_task, **{"title": values["name"], **values}
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


_HEX = re.compile(r"#[0-9A-Fa-f]{6}")
_COLOUR = ("a colour such as '#0072B2'", lambda value: isinstance(value, str) and bool(_HEX.fullmatch(value)))
_MARK = ("a marker of matplotlib such as 'o'", _is_text)
_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("lower-case letters, digits and _", lambda v: isinstance(v, str) and bool(re.fullmatch("[a-z0-9_]+", v))),
    "title": ("a text", _is_text),
    "role": (f"one of {', '.join(ROLES)}", lambda value: value in ROLES),
    "table_order": ("a whole number", lambda value: isinstance(value, int)),
    "marks": (
        "True or False for each part",
        lambda v: isinstance(v, tuple) and all(isinstance(one, bool) for one in v),
    ),
    "colour": _COLOUR,
    "colour_alone": _COLOUR,
    "marker": _MARK,
    "marker_alone": _MARK,
    "hatch": ("a hatch of matplotlib such as '//'", lambda value: isinstance(value, str)),
}


# --- tasks ------------------------------------------------------------------------------------------------------


def _task_call(path: Path) -> ast.Call | None:
    """The call that makes the `TASK` of a module; None for a module of helpers."""
    for node in _tree(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "TASK" for target in targets):
            value = getattr(node, "value", None)
            if isinstance(value, ast.Call):
                return value
            raise DeclarationError(f"{_shown(path)}, line {node.lineno}: expected TASK = Task(name=..., id=..., ...)")
    return None
