"""All models by name. A model is one module here with a class that has a `name`, and nothing elsewhere
(docs/add_a_model.md).
"""

from __future__ import annotations

from importlib import import_module

from flexcare_data.discovery import model_classes
from flexcare_model.models.base import Model, ModelConfig, Output, Readout

# Found, not listed: a list would be code that every training depends on (see flexcare_data/tasks).
MODELS: dict[str, type[Model]] = {
    name: getattr(import_module(module), title) for name, (module, title) in model_classes().items()
}

__all__ = ["MODELS", "Model", "ModelConfig", "Output", "Readout"]
