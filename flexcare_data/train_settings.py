"""The section `train` of the configuration: settings of models and training.

In: nothing. Out: `Train`. This module is code of every run, so it opens no file and knows no other section: a comment
in a preset, or a new key of another section, trains nothing again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt
from pydantic_core import PydanticCustomError

from flexcare_data import discovery
from flexcare_data.modalities import MAX_HOURS
from flexcare_data.options import PAPER_TASKS


def _of_known(value: str, known: Iterable[str]) -> str:
    if value not in known:
        # The type of a wrong Literal, whose message names what was probably meant.
        raise PydanticCustomError("literal_error", "expected {expected}", {"expected": ", ".join(known)})
    return value


TaskName = Annotated[str, AfterValidator(lambda value: _of_known(value, discovery.tasks()))]
ModelName = Annotated[str, AfterValidator(lambda value: _of_known(value, discovery.models()))]


class Section(BaseModel):
    """A part of the configuration: unknown keys are mistakes, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Train(Section):
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where models are trained")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: mixed precision (CUDA only)")
    compile: bool = Field(False, description="use torch.compile")
    data_device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where the data is kept during training; auto: on the GPU if it fits"
    )
    workers: int = Field(0, ge=0, description="DataLoader workers; 0: the training process assembles the batches")
    threads: PositiveInt = Field(2, description="CPU threads of a training")
    seeds: tuple[int, ...] = Field((40, 42, 44, 46, 48), description="seeds; every model is trained once per seed")
    tasks: tuple[TaskName, ...] = Field(
        PAPER_TASKS[:-1],
        description="tasks of the multi-task run, in training order",
    )
    hidden_dim: PositiveInt = Field(128, description="width of all models")
    layers: PositiveInt = Field(4, description="transformer layers that process a content token")
    heads: PositiveInt = Field(2, description="attention heads")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the transformer layers")
    batch_size: PositiveInt = Field(32, description="samples of one task per batch")
    max_hours: int = Field(
        MAX_HOURS, ge=1, le=MAX_HOURS, description="hours of a series that a model reads: the last ones"
    )
    epochs: PositiveInt = Field(25, description="epochs of FlexCare and its variants")
    lr: float = Field(1e-4, gt=0, description="base learning rate of FlexCare")
    baseline_epochs: PositiveInt = Field(40, description="epochs of a baseline and of DRG fine-tuning")
    baseline_lr: float = Field(5e-4, gt=0, description="learning rate of a baseline")
    attention_mask: Literal["strict", "released"] = Field(
        "strict",
        description="strict: masked as in the paper; released: adds 1 to masked logits as the released code does",
    )
    covariance_normaliser: Literal["code", "mean_offdiag"] = Field(
        "code",
        description="divisor of the sum of squared off-diagonal covariances: (K-1)^2 as in the code, or K(K-1)",
    )
    decorr_weight: float = Field(0.5, ge=0, description="weight of the decorrelation loss (lambda)")
    decorr_present_only: bool = Field(
        False, description="true: the decorrelation loss leaves out combinations with an absent modality"
    )
    moe_weight: float = Field(0.01, ge=0, description="weight of the expert balance loss")
    experts: PositiveInt = Field(10, description="number of experts")
    experts_per_token: PositiveInt = Field(2, description="experts that process a modality combination")
    temperature: float = Field(0.2, gt=0, description="temperature of the patient-level fusion")
    task_token: Literal["own", "none", "shared"] = Field(
        "own", description="one task token per task, no task token, or one for all tasks"
    )
    note_dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout on the stored note vectors; 0.1 imitates the released code"
    )
    augment: bool = Field(True, description="random flip and affine transform of the training images")
    drg_subset: Literal["fixed", "per_epoch"] = Field(
        "fixed",
        description="1 % of the DRG training data: one fixed subset, or drawn in each epoch as in the released code",
    )
    m3care_evaluation: Literal["bank", "permutations"] = Field(
        "bank",
        description="neighbours of a sample in the evaluation of M3Care. bank: fixed training samples, so that a "
        "prediction depends on its sample only. permutations: the other samples of its batch, as in training; mean and "
        "spread over random batches with at most one sample per patient",
    )
    m3care_bank: int = Field(256, ge=1, le=4096, description="training samples in the bank, at most one per patient")
    m3care_permutations: PositiveInt = Field(
        20, description="random orders of the samples with `m3care_evaluation: permutations`"
    )
    baselines: tuple[ModelName, ...] = Field(
        ("medfuse", "mt", "m3care", "mmf", "multimodn"),
        description="baselines that are trained and compared: models of flexcare_model/models/, one run per task",
    )
