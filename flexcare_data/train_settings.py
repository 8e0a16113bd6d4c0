"""The section `train` of the configuration: settings of models and training.

In: what the files of the models declare (`discovery`). Out: `Train`, and `settings_of`, what holds for one model. This
module is code of every run, so it knows no other section: a comment in a preset, or a new key of another section,
trains nothing again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, create_model
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


class _Shared(Section):
    """All keys of `train` but `models`."""

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
    optimizer: Literal["adam", "adamw"] = Field(
        "adam", description="adam: weight_decay is added to the gradient; adamw: it shrinks the weights"
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimiser")
    schedule: Literal["released", "constant", "halving", "cosine"] = Field(
        "released",
        description="learning rate. halving: of a task whose validation loss did not fall; cosine: falls to 0 over all "
        "epochs, after a linear warm-up; released: halving where several tasks are trained, constant for one",
    )
    warmup: float = Field(1.0, ge=0, description="epochs of the warm-up of schedule cosine")
    patience: NonNegativeInt = Field(
        0, description="training stops after this number of epochs without a better validation score; 0: never"
    )
    idle_gradients: Literal["none", "zero"] = Field(
        "none",
        description="parameters that a batch does not use. none: the optimiser leaves them; zero: it moves them on by "
        "their moments, as PyTorch 1.10 did",
    )
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
    baselines: tuple[ModelName, ...] = Field(
        ("medfuse", "mt", "m3care", "mmf", "multimodn"),
        description="baselines that are trained and compared: models of flexcare_model/models/, one run per task",
    )


PER_MODEL = ("lr", "epochs", "optimizer", "weight_decay", "schedule", "warmup", "patience", "idle_gradients")
"""Keys of `train` that every model can have for itself, in `train.models.<model>`."""
_BASELINE = {"lr": "baseline_lr", "epochs": "baseline_epochs"}
"""Keys of `train` with another name where a model is trained per task."""


_OF_A_MODEL = (
    "hidden_dim", "layers", "heads", "dropout", "note_dropout", "attention_mask", "covariance_normaliser",
    "decorr_weight", "decorr_present_only", "moe_weight", "experts", "experts_per_token", "temperature", "task_token",
)  # fmt: skip
"""Keys of `train` that a model's file can declare as its own; the others are decided for all models alike."""


def _typed(declared: discovery.DeclaredModel) -> type[Section]:
    """The section `train.models.<model>`: null where a base of the model, or `train`, decides."""
    fields: dict[str, Any] = {}
    for setting in _all_settings(declared):
        own = next((one for one in declared.settings if one.name == setting.name), None)
        default = own.default if own else None
        null = "" if default is not None else f"; null: that of {' or '.join([*declared.bases, '`train`'])}"
        meaning = setting.meaning or f"{setting.name} of this model"
        fields[setting.name] = _field(setting, meaning + null, default)
    title = "".join(part.title() for part in declared.name.split("_"))
    return cast("type[Section]", create_model(f"{title}Settings", __base__=Section, **fields))


def _all_settings(declared: discovery.DeclaredModel) -> list[discovery.DeclaredSetting]:
    """`PER_MODEL`, then what the model and its bases declare; each as the class that explains it declares it."""
    found = {name: discovery.DeclaredSetting(name) for name in PER_MODEL}
    for name in (*reversed(declared.bases), declared.name):
        for setting in discovery.models()[name].settings:
            key = setting.name
            if key in _Shared.model_fields and key not in (*PER_MODEL, *_OF_A_MODEL):
                raise discovery.DeclarationError(f"{name}: settings: {key} of `train` is the same for all models")
            if setting.meaning or key not in found:
                found[key] = setting
            if found[key].default is None and key not in _Shared.model_fields:
                raise discovery.DeclarationError(f"{name}: settings: expected a default of {key}, got none")
    return list(found.values())


def _field(setting: discovery.DeclaredSetting, meaning: str, default: Any) -> tuple[Any, Any]:
    """Type and field of a setting. One that is a key of `train` has its type and limits."""
    if shared := _Shared.model_fields.get(setting.name):
        kind: Any = Annotated[(shared.annotation, *shared.metadata)] if shared.metadata else shared.annotation
    elif isinstance(setting.default, str):
        kind = Literal[setting.choices]
    else:
        kind = Annotated[type(setting.default), Field(ge=setting.least, le=setting.most)]
    return (kind if default is not None else kind | None), Field(default, description=meaning)


def _models() -> type[Section]:
    sections = {declared.name: _typed(declared) for declared in discovery.models().values()}
    fields: dict[str, Any] = {
        name: (kind, Field(default_factory=kind, description=f"settings of {name} alone"))
        for name, kind in sections.items()
    }
    return cast("type[Section]", create_model("Models", __base__=Section, **fields))


if TYPE_CHECKING:

    class Models(Section):
        """Settings by model."""

else:
    Models = _models()


class Train(_Shared):
    models: Models = Field(
        default_factory=Models,
        description="settings of single models. One that is null is that of the model that it is a variant of, or of "
        "`train`",
    )


def settings_of(train: Train, model: str, *, fine_tuning: bool = False) -> dict[str, Any]:
    """The settings of ``model`` that can differ from model to model: `PER_MODEL`, and those that its file declares.

    The first that is not null counts: of `train.models`, the model's own and then those of the models that it derives
    from; then that of `train`. The warm-up of a schedule without one is 0.

    Args:
        fine_tuning: whether it is fine-tuned, which takes `baseline_epochs`.

    Example:
        >>> settings_of(Train(), "mt")["fusion_layer"], settings_of(Train(baseline_lr=0.1), "mt")["lr"]
        (0, 0.1)
    """
    declared = discovery.models()[model]
    chain = [getattr(train.models, name) for name in (model, *declared.bases)]
    found: dict[str, Any] = {}
    for name in type(chain[0]).model_fields:
        given = (getattr(link, name, None) for link in chain)
        value = next((value for value in given if value is not None), None)
        if value is None:
            baseline = not declared.multi_task or (fine_tuning and name == "epochs")
            value = getattr(train, _BASELINE.get(name, name) if baseline else name)
        found[name] = value
    if found["schedule"] != "cosine":
        found["warmup"] = 0.0
    return dict(sorted(found.items()))
