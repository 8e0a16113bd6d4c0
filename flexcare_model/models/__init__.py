"""All models by name. A new model is one file here and one line below."""

from __future__ import annotations

from flexcare_model.models.base import Model, ModelConfig, Output, Readout
from flexcare_model.models.flexcare import FlexCare
from flexcare_model.models.flexcare_variants import (
    FlexCareBase,
    FlexCareNoCT,
    FlexCareNoDecorr,
    FlexCareNoMoE,
    FlexCareNoTaskToken,
)

MODELS: dict[str, type[Model]] = {
    "flexcare": FlexCare,
    "flexcare_base": FlexCareBase,
    "flexcare_no_ct": FlexCareNoCT,
    "flexcare_no_decorr": FlexCareNoDecorr,
    "flexcare_no_moe": FlexCareNoMoE,
    "flexcare_no_task_token": FlexCareNoTaskToken,
}

__all__ = ["MODELS", "Model", "ModelConfig", "Output", "Readout"]
