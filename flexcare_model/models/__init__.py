"""All models by name. A model is one module in this folder, with a class that sets `name`; nothing else refers to it
(docs/add_a_model.md). A module is imported when its model is used, so that a training imports its own model only.

It is code in an `__init__.py` because `from flexcare_model.models import MODELS, Model` is the public import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module

from flexcare_data import discovery
from flexcare_model.models.base import Model, ModelConfig, Output, Readout


class _Models(Mapping[str, type[Model]]):
    """Classes of models by name, in the order of `discovery.models`."""

    def __getitem__(self, name: str) -> type[Model]:
        if name not in discovery.models():
            raise KeyError(name)
        return _imported(name)

    def __iter__(self) -> Iterator[str]:
        return iter(discovery.models())

    def __len__(self) -> int:
        return len(discovery.models())

    def __contains__(self, name: object) -> bool:
        return name in discovery.models()


@cache
def _imported(name: str) -> type[Model]:
    declared = discovery.models()[name]
    found = getattr(import_module(declared.module), declared.class_name)
    if not (isinstance(found, type) and issubclass(found, Model)):
        raise discovery.DeclarationError(f"{declared.module}: expected {declared.class_name} to be a Model")
    return found


MODELS: Mapping[str, type[Model]] = _Models()

__all__ = ["MODELS", "Model", "ModelConfig", "Output", "Readout"]
