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
from flexcare_model.models.m3care import M3Care
from flexcare_model.models.medfuse import MedFuse
from flexcare_model.models.mmf import MMF
from flexcare_model.models.mt import MT
from flexcare_model.models.multimodn import MultiModN

MODELS: dict[str, type[Model]] = {
    "flexcare": FlexCare,
    "flexcare_base": FlexCareBase,
    "flexcare_no_ct": FlexCareNoCT,
    "flexcare_no_decorr": FlexCareNoDecorr,
    "flexcare_no_moe": FlexCareNoMoE,
    "flexcare_no_task_token": FlexCareNoTaskToken,
    "medfuse": MedFuse,
    "mt": MT,
    "m3care": M3Care,
    "mmf": MMF,
    "multimodn": MultiModN,
}

__all__ = ["MODELS", "Model", "ModelConfig", "Output", "Readout"]
