"""Base of all models: settings, output, and the methods that training and analysis use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from flexcare_data.errors import UserError
from flexcare_data.modalities import MAX_NOTE_TOKENS, NOTE_WIDTH
from flexcare_data.tasks import TASKS
from flexcare_model.data.batch import MAX_HOURS, Batch
from flexcare_model.models.layers import Embedding, EncoderLayer
from flexcare_model.models.losses import prediction_loss


@dataclass(frozen=True)
class ModelConfig:
    """Settings of all models; a model reads those that concern it. Defaults follow the specification.

    Attributes:
        hidden_dim, layers, heads, dropout: width d, transformer layers a content token passes, heads, their dropout.
        max_hours, max_tokens: rows of the position tables of the series and of the notes.
        note_width, note_dropout: width of the note vectors; dropout on them (0.1 imitates the released encoder, which
            stays in training mode). A run takes width and max_tokens from the data.
        attention_mask: strict blocks as the paper says; released adds 1 to the blocked logits, as the code does.
        encoder: blocks and dense compute the same; the released mask is always dense.
        covariance_normaliser, decorr_weight, decorr_present_only: of the decorrelation loss.
        moe_weight, experts, experts_per_token: of the mixture of experts.
        temperature: of the patient-level fusion.
        task_token: one per task, one shared by all tasks, or none.
        own: of the settings that the model's class declares, those that differ from its defaults.
    """

    hidden_dim: int = 128
    layers: int = 4
    heads: int = 2
    dropout: float = 0.1
    max_hours: int = MAX_HOURS
    max_tokens: int = MAX_NOTE_TOKENS
    note_width: int = NOTE_WIDTH
    note_dropout: float = 0.0
    attention_mask: Literal["strict", "released"] = "strict"
    encoder: Literal["blocks", "dense"] = "blocks"
    covariance_normaliser: Literal["code", "mean_offdiag"] = "code"
    decorr_weight: float = 0.5
    decorr_present_only: bool = False
    moe_weight: float = 0.01
    experts: int = 10
    experts_per_token: int = 2
    temperature: float = 0.2
    task_token: Literal["own", "none", "shared"] = "own"
    own: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.hidden_dim % self.heads:
            raise ValueError(f"model: hidden_dim {self.hidden_dim} is not a multiple of heads {self.heads}")
        if not 1 <= self.experts_per_token <= self.experts:
            raise ValueError(
                f"model: experts_per_token expected 1 to experts ({self.experts}), got {self.experts_per_token}"
            )


_FIELDS = frozenset(part.name for part in fields(ModelConfig))


@dataclass(frozen=True)
class Readout:
    """Logits (n, C) that a model predicts for some ``rows`` (n,) of the batch, besides its output."""

    name: str
    logits: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Output:
    """Output of a model.

    Attributes:
        logits: (B, C), C of the batch's task.
        extra_losses: scalars by name, without weights unless the model's docstring says otherwise;
            `Model.loss` adds them up.
        readouts: further predictions that enter the loss.
        details: tensors of the computation by name, filled on request; each model's docstring lists them.
    """

    logits: Tensor
    extra_losses: dict[str, Tensor] = field(default_factory=dict)
    readouts: tuple[Readout, ...] = ()
    details: dict[str, Tensor] = field(default_factory=dict)


class SettingError(UserError, ValueError):
    """Settings of a model that do not fit together."""


class Model(nn.Module):
    """Base of all models: ``Model(config, task_outputs)``, ``forward(batch, *, details=False) -> Output``, `loss`.

    Attributes:
        name: as in targets and in the configuration (lower-case letters, digits, _). A class whose body does not set
            it is not a model.
        multi_task: whether one model is trained on several tasks (FlexCare and variants) or one per task.
        gradient_clip: largest gradient norm in training, None for no clipping.
        title: in tables, figures and on the page; the name where there is none.
        role: the comparison that the model belongs to. baseline: tables 3 and 5, statistics and figures, beside the
            paper's methods; ablation: table 4 and figure 4; task_token: table 6 and figure 5; unlisted: none;
            variant: another form of a method of table 3, with a row there if its run on all tasks together exists;
            reference: FlexCare, which the others are compared with.
        table_order: position among the models of its role; models of one order are sorted by name.
        marks: of an ablation, whether it has combination tokens, decorrelation, mixture of experts.
        colour, marker: of the model in figures; a free one where there is none.
        colour_alone, marker_alone: of a multi-task model where it is trained on each task alone.
        hatch: of the bar of an ablation.
        settings: by name, what `train.models.<name>` can set besides the settings that all models have: ``default``,
            ``meaning``, and of a text its ``choices``, of a number ``least`` and ``most``. The model reads the value
            as ``self.own.<name>``. A name of a key of `train` replaces that key for this model; without ``default``
            only where the configuration says so. A subclass has the settings of its bases, and may change defaults.
        bank_size: largest number of training samples that the model is given to compare a sample with in evaluation
            (`fill_bank`); 0: it reads none.
        uses_bank: False: a model with a bank compares the samples of a batch with each other in evaluation too.

    All but ``multi_task``, ``gradient_clip`` and those of the bank are read from the text of the file
    (`flexcare_data.discovery`), because tables are made without importing a model: they are literals, and a subclass
    does not inherit them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    role: ClassVar[str]
    table_order: ClassVar[int]
    marks: ClassVar[tuple[bool, ...]]
    colour: ClassVar[str]
    marker: ClassVar[str]
    colour_alone: ClassVar[str]
    marker_alone: ClassVar[str]
    hatch: ClassVar[str]
    settings: ClassVar[dict[str, dict[str, Any]]] = {}
    multi_task: ClassVar[bool] = False
    gradient_clip: ClassVar[float | None] = None
    bank_size: int = 0
    uses_bank: bool = True

    def __init__(
        self,
        config: ModelConfig,
        task_outputs: dict[str, int],
        *,
        class_std: float = 0.02,
        with_embedding: bool = True,
    ) -> None:
        """``task_outputs``: number of logits by task name (single-task models are given one task).

        ``with_embedding`` False is for a model that reads ``batch.ts`` or ``batch.note_tok`` itself: it then has no
        ``self.embedding``, whose parameters would never be trained.
        """
        super().__init__()
        unknown = sorted(set(task_outputs) - set(TASKS))
        if unknown or not task_outputs:
            raise ValueError(f"model: expected tasks of {', '.join(TASKS)}; got {unknown or 'none'}")
        self.config = config
        self.own = self.own_settings(config)
        self.task_outputs = dict(task_outputs)
        if with_embedding:
            self.embedding = Embedding(
                config.hidden_dim,
                config.note_width,
                config.max_hours,
                config.max_tokens,
                config.note_dropout,
                class_std,
            )

    @classmethod
    def declared_defaults(cls) -> dict[str, Any]:
        """Defaults of the ``settings`` of the class and its bases, by name; those without one are left out."""
        found: dict[str, Any] = {}
        for kind in reversed(cls.__mro__):
            declared = vars(kind).get("settings", {})
            found |= {name: values["default"] for name, values in declared.items() if "default" in values}
        return found

    @classmethod
    def usual(cls) -> dict[str, Any]:
        """Fields of `ModelConfig` for which the class declares another default."""
        return {name: value for name, value in cls.declared_defaults().items() if name in _FIELDS}

    @classmethod
    def own_settings(cls, config: ModelConfig) -> SimpleNamespace:
        """The values of the declared ``settings`` that are no fields of `ModelConfig`.

        Raises:
            SettingError: if ``config.own`` has others.
        """
        known = {name: value for name, value in cls.declared_defaults().items() if name not in _FIELDS}
        if unknown := sorted(set(config.own) - set(known)):
            raise SettingError(f"{cls.name}: expected settings of {', '.join(known) or 'none'}; got {unknown[0]}")
        return SimpleNamespace(**known | config.own)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """The training loss, a scalar: prediction loss and extra losses with their weights."""
        return prediction_loss(output.logits, batch.label, batch.task_name)

    def fill_bank(self, batches: Iterable[Batch], *, neighbours: int) -> None:
        """Store, in buffers, what the model needs of training samples to answer without them.

        Args:
            batches: of together at most ``bank_size`` samples, not augmented; the model is in eval mode.
            neighbours: other samples in a batch of the training.
        """
        raise NotImplementedError(f"{type(self).__name__} has no bank")

    def compile_layers(self) -> None:
        """Compile the part after attention of every transformer layer, which has most of the small kernels.

        Not the whole model: the packing is planned on the CPU for each batch. Shapes are dynamic, so
        this is one compilation, in the first steps. The names of the parameters do not change.
        """
        for module in self.modules():
            if isinstance(module, EncoderLayer):
                # An attribute of the instance, which hides the method.
                module.finish = torch.compile(module.finish, dynamic=True)  # type: ignore[method-assign]

    def check_task(self, batch: Batch) -> str:
        """Name of the batch's task.

        Raises:
            ValueError: if the model was not made for it.
        """
        name = batch.task_name
        if name not in self.task_outputs:
            raise ValueError(f"{type(self).__name__}: expected a batch of {', '.join(self.task_outputs)}, got {name}")
        return name

    def linear_heads(self, width: int) -> nn.ModuleDict:
        """One linear layer per task, from ``width`` to its logits."""
        return nn.ModuleDict({name: nn.Linear(width, outputs) for name, outputs in self.task_outputs.items()})


def readout_loss(output: Output, batch: Batch) -> Tensor:
    """Mean over the read-outs of their prediction losses, each over the rows it was made for."""
    losses = [
        prediction_loss(part.logits, batch.label.index_select(0, part.rows), batch.task_name)
        for part in output.readouts
    ]
    return torch.stack(losses).mean()


def full_precision(device: torch.device) -> torch.autocast:
    """Context without mixed precision, for small sums where 8 bits of mantissa are too few."""
    return torch.autocast(device.type, enabled=False)
