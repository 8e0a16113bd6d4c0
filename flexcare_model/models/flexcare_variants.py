"""Variants of FlexCare: without some of its components (table 4 and 6 of the paper), and as its code was released."""

from __future__ import annotations

from flexcare_model.models.flexcare import FlexCare

SINGLE = ("T", "I", "N")


class FlexCareBase(FlexCare):
    """Three modality tokens, one shared expert, prediction loss only."""

    name = "flexcare_base"
    title = "base"
    role = "ablation"
    table_order = 1
    marks = (False, False, False)
    colour = "#999999"
    combinations = SINGLE
    decorrelated = False
    mixed = False


class FlexCareNoCT(FlexCare):
    """Without the combination tokens, and therefore without decorrelation."""

    name = "flexcare_no_ct"
    title = "experts only"
    role = "ablation"
    table_order = 2
    marks = (False, False, True)
    colour = "#0072B2"
    hatch = "////"
    combinations = SINGLE
    decorrelated = False


class FlexCareNoDecorr(FlexCare):
    """Without decorrelation loss (it is still computed, for comparison)."""

    name = "flexcare_no_decorr"
    title = "without decorrelation"
    role = "ablation"
    table_order = 3
    marks = (True, False, True)
    colour = "#009E73"
    hatch = "...."
    decorrelated = False


class FlexCareNoMoE(FlexCare):
    """One shared expert for all combinations and tasks."""

    name = "flexcare_no_moe"
    title = "without experts"
    role = "ablation"
    table_order = 4
    marks = (True, True, False)
    colour = "#E69F00"
    hatch = "\\\\\\\\"
    mixed = False


class FlexCareNoTaskToken(FlexCare):
    """Without task token: routing and fusion see the combinations only, ``rep`` is (B, d); heads stay per task."""

    name = "flexcare_no_task_token"
    title = "without task token"
    role = "task_token"
    task_token = "none"


class FlexCareReleased(FlexCare):
    """FlexCare as the released code computes it: a mask that blocks nothing but padding, dropout on the note vectors,
    encoder layers that start equal, and idle parameters that Adam moves on (docs/models.md, D1, D7, D9 and D21)."""

    name = "flexcare_released"
    title = "FlexCare, as released"
    role = "variant"
    table_order = 2
    settings = {
        "attention_mask": {"default": "released"},
        "note_dropout": {"default": 0.1},
        "copied_layers": {"default": True},
        "idle_gradients": {"default": "zero"},
    }
