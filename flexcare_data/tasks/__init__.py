"""All tasks. A task is one module here with a `TASK` in it, and nothing elsewhere (docs/add_a_task.md).

The modules are found, not listed: a list would be code that every training depends on, so that a further task would
have all models trained again.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from flexcare_data.options import PAPER_TASKS, Options
from flexcare_data.schema import RAW
from flexcare_data.tasks.base import METRICS, Task


class TaskError(ValueError):
    """A module of this folder declares a task that cannot be one."""


def _declared() -> dict[str, Task]:
    """The tasks of the paper in its training order, then the others by id."""
    found: dict[str, Task] = {}
    for module in pkgutil.iter_modules(__path__):
        task = getattr(import_module(f"{__name__}.{module.name}"), "TASK", None)
        if task is not None:
            _check(module.name, task, found)
            found[task.name] = task
    names = [*PAPER_TASKS, *sorted(found.keys() - set(PAPER_TASKS), key=lambda name: found[name].id)]
    return {name: found[name] for name in names}


def _check(module: str, task: Task, others: dict[str, Task]) -> None:
    where = f"flexcare_data/tasks/{module}.py"
    if task.name != module:
        raise TaskError(f"{where}: expected a task named {module}, got {task.name!r}")
    if twin := next((other.name for other in others.values() if other.id == task.id), None):
        raise TaskError(f"{where}: expected an id of its own, got {task.id}, that of {twin}")
    if unknown := sorted(set(task.raw) - set(RAW)):
        raise TaskError(f"{where}: expected raw tables of {', '.join(RAW)}; got {unknown[0]}")
    if unknown := sorted(set(task.options) - set(Options.model_fields)):
        raise TaskError(f"{where}: expected options of {', '.join(Options.model_fields)}; got {unknown[0]}")


TASKS: dict[str, Task] = _declared()

__all__ = ["METRICS", "TASKS", "Task", "TaskError"]
