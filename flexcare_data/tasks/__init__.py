"""All tasks. Each task is one module of this package with a `TASK`; no other file lists it (docs/add_a_task.md).

The modules are found, not listed: a list would be code that every training depends on, so that one more task would
train all models again. A module is imported when its task is used, so that a training runs its own tasks only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module

from flexcare_data import discovery
from flexcare_data.errors import UserError
from flexcare_data.options import Options
from flexcare_data.schema import RAW, SECTION_NAMES
from flexcare_data.tasks.base import METRICS, Task


class TaskError(UserError):
    """The task that a module of this folder declares is wrong."""


class _Tasks(Mapping[str, Task]):
    """Tasks by name, in the order of `discovery.tasks`: the paper's in its training order, then the others by id."""

    def __getitem__(self, name: str) -> Task:
        if name not in discovery.tasks():
            raise KeyError(name)
        return _imported(name)

    def __iter__(self) -> Iterator[str]:
        return iter(discovery.tasks())

    def __len__(self) -> int:
        return len(discovery.tasks())

    def __contains__(self, name: object) -> bool:
        return name in discovery.tasks()


@cache
def _imported(name: str) -> Task:
    module = discovery.tasks()[name].module
    try:
        task = import_module(module).TASK
    except UserError:
        raise
    except Exception as error:
        # What runs at the import of a task holds no data, so the text of the exception may be shown.
        raise TaskError(
            f"flexcare_data/tasks/{name}.py{_line(error, name)}: {type(error).__name__}: {error}"
        ) from error
    _check(name, task)
    return task


def _line(error: Exception, name: str) -> str:
    """The line of the task's file in which ``error`` was raised."""
    lines = []
    place = error.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename.endswith(f"{name}.py"):
            lines.append(place.tb_lineno)
        place = place.tb_next
    return f", line {lines[-1]}" if lines else ""


def _check(module: str, task: Task) -> None:
    where = f"flexcare_data/tasks/{module}.py"
    if not isinstance(task, Task):
        raise TaskError(f"{where}: expected TASK to be a Task, got {type(task).__name__}")
    if task.name != module:
        raise TaskError(f"{where}: expected a task named {module}, got {task.name!r}")
    for field in ("labels", "raw", "options", "classes"):
        if not isinstance(getattr(task, field), tuple):
            raise TaskError(f"{where}: expected {field} as a tuple such as ('label',), got {getattr(task, field)!r}")
    known = {"kind": tuple(METRICS), "section": SECTION_NAMES}
    for field, values in known.items():
        if getattr(task, field) not in values:
            raise TaskError(f"{where}: expected {field} to be one of {', '.join(values)}; got {getattr(task, field)!r}")
    n_labels = len(task.labels) if task.kind == "multilabel" else 1
    if len(task.labels) != max(1, n_labels):
        raise TaskError(f"{where}: expected one label for a {task.kind} task, got {len(task.labels)}")
    if task.kind != "multiclass" and task.n_outputs != n_labels:
        raise TaskError(f"{where}: expected n_outputs={n_labels} for its labels, got {task.n_outputs}")
    if task.classes and len(task.classes) != task.n_outputs:
        raise TaskError(f"{where}: expected {task.n_outputs} classes, got {len(task.classes)}")
    if unknown := sorted(set(task.raw) - set(RAW)):
        raise TaskError(f"{where}: expected raw tables of {', '.join(RAW)}; got {unknown[0]}")
    if unknown := sorted(set(task.options) - set(Options.model_fields)):
        raise TaskError(f"{where}: expected options of {', '.join(Options.model_fields)}; got {unknown[0]}")


TASKS: Mapping[str, Task] = _Tasks()

__all__ = ["TASKS", "TaskError"]
