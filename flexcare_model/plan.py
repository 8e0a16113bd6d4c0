"""The products of the cohorts: runs, analyses, tables, figures and pages, each with its inputs, key and folder.

In: the `Plan` of the data half. Out: a `Product` for each. A product is stored in ``<output>/by_key/``, under a key of
everything that decides it. A changed setting makes a new product and keeps the old one; a table shows only runs of
its configuration. No model library is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from flexcare_data.config import Config
from flexcare_data.discovery import DeclaredModel, models, models_of, reference, task_names
from flexcare_data.errors import UserError
from flexcare_data.hashing import spec_key
from flexcare_data.options import PROTOCOLS
from flexcare_data.plan import Plan, Product, code_spec, cohort_stage, library_versions
from flexcare_data.schema import OUTPUT_FORMAT, RAW
from flexcare_data.store.folders import MANIFEST, is_complete, remove
from flexcare_data.train_settings import Train, settings_of
from flexcare_model.experiments import EXPERIMENTS, MULTI_TASK, TRANSFER, TRANSFER_TASK, lines_to_paste, why_no_samples
from flexcare_model.report.catalogue import (
    BY_YEARS,
    ENTRIES,
    FIGURES,
    PAGES,
    PRICED,
    REPLICATES,
    REPLICATES_SEED,
    STATISTICS,
    TABLES,
    FigureEntry,
    TableEntry,
    modules_of,
)

RUN_LIBRARIES = ("numpy", "polars", "torch")
REPORT_LIBRARIES = ("jinja2", "matplotlib", "numpy", "polars", "scikit-learn", "scipy")
RUN_FILES = ("metrics.json", "model.safetensors", "config.json", "history.parquet", "log.csv", "predictions")

_SHARED_SETTINGS = (
    "hidden_dim", "layers", "heads", "dropout", "batch_size", "max_hours", "note_dropout", "augment", "precision",
    "compile",
)  # fmt: skip
"""Settings of `train` that decide every run, where its model has none of this name for itself."""


class RunError(UserError):
    """An invalid run: an unknown name, or a cohort without samples."""


class ModelPlan:
    """Products made from the cohorts, under one configuration."""

    def __init__(self, data: Plan) -> None:
        self.data = data
        self.config: Config = data.config
        self.train: Train = data.config.train
        self._runs: dict[tuple[str, str, int], Product] = {}
        self._analyses: dict[tuple[str, str, str, int], Product] = {}

    # --- other configurations -----------------------------------------------------------------------------------

    def under(self, options: Mapping[str, Any], *, protocol: str | None = None) -> ModelPlan:
        """The plan of this configuration with ``options`` instead of its own, on the same store and output folder.

        Args:
            options: single options that differ from the protocol.
            protocol: None: the protocol of the configuration.
        """
        changes = {"options": dict(options), "protocol": protocol or self.config.protocol}
        return ModelPlan(Plan(self.config.model_copy(update=changes)))

    @cached_property
    def other_protocol(self) -> ModelPlan:
        """The plan of the other protocol; the single options are the same."""
        other = "corrected" if self.config.protocol == "flexcare" else "flexcare"
        return self.under(self.config.options, protocol=other)

    @cached_property
    def priced(self) -> dict[str, ModelPlan]:
        """By option of `PRICED`: the plan of protocol flexcare where only this option has its value of corrected."""
        values = {option: getattr(PROTOCOLS["corrected"], option) for option in PRICED}
        return {
            option: self.under(self.config.options | {option: value}, protocol="flexcare")
            for option, value in values.items()
        }

    @cached_property
    def splits(self) -> dict[str, ModelPlan]:
        """The plan of the random split (``random``) and that of the split by time (``temporal``); one is this plan.

        Where the split by time is configured, the random split is that of the protocol.
        """
        if self.data.options.split == "temporal":
            options = {name: value for name, value in self.config.options.items() if name != "split"}
            return {"random": self.under(options), "temporal": self}
        return {"random": self, "temporal": self.under(self.config.options | {"split": "temporal"})}

    def plans(self) -> Iterator[ModelPlan]:
        """This plan, then those that a target compares with it; each is made when it is reached."""
        yield self
        yield self.other_protocol
        yield from self.priced.values()
        yield from (plan for plan in self.splits.values() if plan is not self)

    # --- runs ---------------------------------------------------------------------------------------------------

    @cached_property
    def requested_tasks(self) -> tuple[str, ...]:
        """Tasks of `train.tasks` that can have samples under this configuration, in training order.

        It depends on the configuration alone, and so does the key of the run of all tasks: the training leaves out what
        turns out to be empty.
        """
        return tuple(task for task in self.train.tasks if task in self.config.tasks and task not in self._known)

    @cached_property
    def trained_tasks(self) -> tuple[str, ...]:
        """Of the `requested_tasks` those whose cohort is not known to be empty: each gets runs of its own."""
        return tuple(task for task in self.requested_tasks if task not in self.not_trained)

    @cached_property
    def not_trained(self) -> dict[str, str]:
        """Tasks of `train.tasks` that no model can be trained on, with the reason."""
        configured = [task for task in self.train.tasks if task in self.config.tasks]
        return {task: reason for task in configured if (reason := self._why_not(task))}

    def _why_not(self, task: str) -> str:
        """Why no model can be trained on a configured task; an empty text where one can, as far as is known."""
        if task in self._known or not self.data.is_empty(task):
            return self._known.get(task, "")
        return why_no_samples(self._absent(task))

    @cached_property
    def _known(self) -> dict[str, str]:
        """Tasks without samples by the configuration alone, with the reason."""
        return {**self.data.without_samples, **self.data.left_out}

    @property
    def compared(self) -> tuple[str, ...]:
        """Baselines of a comparison whose target is requested: all, where the configuration trains none by default."""
        return self.train.baselines or Train().baselines

    def tasks_of(self, experiment: str) -> tuple[str, ...]:
        """Tasks that a run of ``experiment`` trains on.

        Raises:
            RunError: if one of them is not configured or has no samples.
        """
        tasks = EXPERIMENTS[experiment].tasks
        if tasks is None:
            if not self.trained_tasks:
                raise RunError(f"{experiment}: expected tasks with samples among train.tasks, got none")
            return self.requested_tasks
        for task in tasks:
            if task not in self.config.tasks:
                # Radiographs and notes are prepared for configured cohorts only. A model would be trained without them.
                raise RunError(f"{task}: expected a configured task; add it to `tasks` (now {list(self.config.tasks)})")
            if reason := self._why_not(task):
                why = f"its cohort has no samples ({reason})" if task in self._known else reason
                lines = "" if task in self.data.left_out else lines_to_paste(self._absent(task))
                raise RunError(f"{task}: {why}, so no model can be trained on it\n{lines}".rstrip())
        return tasks

    def _absent(self, task: str) -> list[str]:
        """Data sets that are not set: those that the task needs for any sample, or else all that its cohort reads."""
        if task in self.data.without_samples:
            return [self.data.without_samples[task].removeprefix("raw.").removesuffix(" is not set")]
        cohort = cohort_stage(task)
        read = {
            RAW[table].root for name in (cohort, *self.data.upstream(cohort)) for table in self.data.stage(name).raw
        }
        return sorted(root for root in read if self.data.root(root) is None)

    def run(self, model: str, experiment: str, seed: int) -> Product:
        """One training and its evaluation.

        Raises:
            RunError: an unknown model or experiment, or a task that cannot be trained on.
        """
        name = (model, experiment, seed)
        if name not in self._runs:
            self._runs[name] = self._run(model, experiment, seed)
        return self._runs[name]

    def _run(self, model: str, experiment: str, seed: int) -> Product:
        if model not in models():
            raise RunError(f"model: expected one of {', '.join(models())}; got {model}")
        if experiment not in EXPERIMENTS:
            raise RunError(f"experiment: expected one of {', '.join(EXPERIMENTS)}; got {experiment}")
        known = EXPERIMENTS[experiment]
        if not models()[model].multi_task and (known.tasks is None or known.pretrained):
            raise RunError(f"{model} is trained per task: expected the experiment of one task, got {experiment}")
        tasks = self.tasks_of(experiment)
        inputs = {name: self.data.product(name) for name in ("hourly", "images", "notes", *map(cohort_stage, tasks))}
        pretrained = self.run(model, MULTI_TASK, seed) if EXPERIMENTS[experiment].pretrained else None
        spec = {
            "product": "run",
            "model": model,
            "experiment": experiment,
            "seed": seed,
            "settings": self.settings(model, experiment) | {"tasks": list(tasks)},
            "samples": {task: self.data.samples_spec(task) for task in tasks},
            "pretrained": pretrained.key if pretrained else None,
            "code": code_spec(
                "flexcare_model.training.train_and_evaluate",
                models()[model].module,
                *(f"flexcare_data.tasks.{task}" for task in tasks),
            ),
            "libraries": library_versions(RUN_LIBRARIES),
            "format": OUTPUT_FORMAT,
        }
        folder = self.data.by_key / "runs" / f"{model}-{experiment}-seed{seed}-{spec_key(spec)}"
        return Product(
            f"run-{model}-{experiment}-seed{seed}",
            spec,
            folder,
            done=folder / "metrics.json",
            published={f"runs/{model}/{experiment}/seed{seed}/{file}": folder / file for file in RUN_FILES},
            inputs=inputs | ({"pretrained": pretrained} if pretrained else {}),
        )

    def settings(self, model: str, experiment: str) -> dict[str, Any]:
        """The settings of `train` that decide a run of ``model``; a change of the others does not train it again.

        Settings that decide only where and how fast it is computed (device, threads, workers, data_device) are
        left out.
        """
        known = EXPERIMENTS[experiment]
        own = settings_of(self.train, model, fine_tuning=known.fine_tuning)
        names = [name for name in _SHARED_SETTINGS if name not in own]
        names += ["drg_subset"] if known.percent < 100 else []
        return {name: getattr(self.train, name) for name in sorted(names)} | {"models": {model: own}}

    def runs(self, models: Iterable[str], experiments: Iterable[str]) -> list[Product]:
        """Every combination, for all configured seeds."""
        return [
            self.run(model, experiment, seed)
            for model in models
            for experiment in experiments
            for seed in self.train.seeds
        ]

    @cached_property
    def reported_runs(self) -> list[Product]:
        """Runs of `all`: FlexCare on all tasks, the configured baselines on each."""
        flexcare = self.runs([reference().name], [MULTI_TASK]) if self.trained_tasks else []
        return [*flexcare, *self.baseline_runs(self.train.baselines)]

    @cached_property
    def method_runs(self) -> list[Product]:
        """Runs of table 3."""
        return [
            *self.runs([reference().name], [MULTI_TASK, *self.trained_tasks]),
            *self.baseline_runs(self.compared),
        ]

    def baseline_runs(self, names: Iterable[str]) -> list[Product]:
        """Runs of the baselines ``names`` for their rows of table 3: on each task, on all together, or both."""
        found: list[Product] = []
        for name in names:
            known = models()[name]
            together = [MULTI_TASK] if known.multi_task and known.role in ("baseline", "variant") else []
            found += self.runs([name], together if self.trained_tasks else [])
            found += self.runs([name], () if known.role == "variant" else self.trained_tasks)
        return found

    @property
    def variants(self) -> tuple[str, ...]:
        """Runs of FlexCare without one of its parts."""
        return tuple(model.name for role in ("ablation", "task_token") for model in models_of(role))

    def transfer_runs(self, baselines: Iterable[str]) -> list[Product]:
        """Runs of table 5."""
        scratch = [name for name in TRANSFER if not EXPERIMENTS[name].pretrained]
        compared = [name for name in baselines if models()[name].role != "variant"]
        return [*self.runs([reference().name], TRANSFER), *self.runs(compared, scratch)]

    @cached_property
    def _no_transfer(self) -> dict[str, str]:
        """The task of table 5 with the reason, where it is known that no model can be trained on it."""
        reason = self._why_not(TRANSFER_TASK) if TRANSFER_TASK in self.config.tasks else ""
        return {TRANSFER_TASK: reason} if reason else {}

    # --- analyses -----------------------------------------------------------------------------------------------

    def analysis(self, kind: str, model: str, experiment: str, seed: int) -> Product:
        """Tables about one trained run: ``inside``, ``modalities``, ``validation`` or ``interaction``.

        ``modalities`` are scores with fewer modalities, ``validation`` the predictions of the validation split. The
        interaction of the tasks is measured in a separate training.
        """
        name = (kind, model, experiment, seed)
        if name not in self._analyses:
            self._analyses[name] = self._analysis(*name)
        return self._analyses[name]

    def _analysis(self, kind: str, model: str, experiment: str, seed: int) -> Product:
        run = self.run(model, experiment, seed)
        place = f"analysis/{model}/{experiment}/seed{seed}"
        files = {
            "inside": ("representations.parquet", "experts.parquet"),
            "modalities": ("modalities.parquet",),
            "validation": ("validation",),
            "interaction": (),
        }[kind]
        inputs = {name: product for name, product in run.inputs.items() if name != "pretrained"}
        if kind == "interaction":
            spec = run.spec | {"product": "interaction"}
            folder = self.data.by_key / "runs" / f"interaction-{model}-{experiment}-seed{seed}-{spec_key(spec)}"
            published = {f"{place}/interaction/history.parquet": folder / "history.parquet"}
            return Product(folder.name[:-13], spec, folder, folder / "metrics.json", published, inputs)
        inputs = {"run": run, **inputs}
        spec = self._made(kind, {"run": run}, {}, "flexcare_model.analysis.write")
        return self._sealed(f"{kind}-{model}-{experiment}-seed{seed}", spec, {f"{place}/{f}": f for f in files}, inputs)

    def analyses(self, kind: str, runs: Iterable[Product]) -> list[Product]:
        """Analyses of several runs."""
        return [self.analysis(kind, r.spec["model"], r.spec["experiment"], r.spec["seed"]) for r in runs]

    @cached_property
    def statistics(self) -> Product:
        """Intervals, paired tests, calibration and groups of the runs of table 3."""
        inputs = self._named([self.data.product("stays"), *self._cohorts(), *self.method_runs])
        settings = {
            "suppress_below": self.config.report.suppress_below,
            "replicates": REPLICATES,
            "seed": REPLICATES_SEED,
        }
        spec = self._made("statistics", inputs, settings, "flexcare_model.report.numbers.statistics")
        files = {f"analysis/statistics/{name}.parquet": f"{name}.parquet" for name in STATISTICS}
        return self._sealed("statistics", spec, files, inputs)

    # --- tables, figures, pages ---------------------------------------------------------------------------------

    def needed(self, group: str) -> list[Product]:
        """Products by the name of their group in `flexcare_model.report.catalogue`."""
        flexcare, seed = reference().name, self.train.seeds[0]
        with_token_variants = [flexcare, *_names("task_token")]
        groups: dict[str, Callable[[], Iterable[Product]]] = {
            "cohorts": self._cohorts,
            "stays": lambda: [self.data.product("stays")],
            "images": lambda: [self.data.product("images")],
            "reported_runs": lambda: self.reported_runs,
            "method_runs": lambda: self.method_runs,
            "ablation_runs": lambda: self.runs([flexcare, *_names("ablation")], [MULTI_TASK]),
            "transfer_runs": lambda: [] if self._no_transfer else self.transfer_runs(self.compared),
            "task_token_runs": lambda: self.runs(with_token_variants, [MULTI_TASK]),
            "task_token_representations": lambda: [
                self.analysis("inside", model, MULTI_TASK, seed) for model in with_token_variants
            ],
            "experts": lambda: [self.analysis("inside", flexcare, MULTI_TASK, seed)],
            "interaction": lambda: [self.analysis("interaction", flexcare, MULTI_TASK, seed)],
            "modality_scores": lambda: self.analyses("modalities", self.method_runs),
            "statistics": lambda: [self.statistics],
            "all_tables_and_figures": self._all_needed,
            "finished": lambda: [product for product in self._all_needed() if product.done.is_file()],
        }
        return list(groups[group]())

    def _all_needed(self) -> list[Product]:
        groups = dict.fromkeys(group for entry in ENTRIES for group in entry.needs)
        return [product for group in groups for product in self.needed(group)]

    def table(self, name: str) -> Product:
        """Tables of one entry of the catalogue, as CSV, Markdown and LaTeX."""
        entry = TABLES[name]
        files = {f"tables/{stem}{end}": f"{stem}{end}" for stem in entry.stems for end in (".csv", ".md", ".tex")}
        return self._entry(f"tables-{name}", entry, files)

    def figure(self, name: str) -> Product:
        """A figure as SVG and PNG."""
        files = {f"figures/{name}{end}": f"{name}{end}" for end in (".svg", ".png")}
        return self._entry(f"figures-{name}", FIGURES[name], files)

    def _entry(self, name: str, entry: TableEntry | FigureEntry, files: dict[str, str]) -> Product:
        inputs = [product for group in entry.needs for product in self.needed(group)]
        # Tables with the paper's numbers read `stays`, whose first count says which edition it is.
        paper = "stays" in entry.needs
        return self._report(name, inputs, files, modules=(entry.module,), seeds="seeds" in entry.takes, paper=paper)

    @cached_property
    def card(self) -> Product:
        """Dataset card and Croissant description."""
        inputs = [self.data.product("stays"), self.data.product("splits"), *self._cohorts()]
        files = {f"card/{name}": name for name in ("DATASET_CARD.md", "croissant.json")}
        return self._report("card", inputs, files, config=True)

    def page(self, name: str) -> Product:
        """``report`` shows what `all` trains, ``paper`` everything, ``so_far`` the runs that are finished now."""
        data = [self.data.product(stage) for stage in self.data.published]
        files = {f"{name}.html": "page.html", f"{name}_tables": "tables"}
        modules = modules_of([*ENTRIES, BY_YEARS])
        inputs = [*data, self.fingerprint, *self.needed(PAGES[name])]
        if self.data.options.split == "temporal":
            inputs += self._validations(inputs, finished=PAGES[name] == "finished")
        left_out = {} if PAGES[name] == "reported_runs" else self._no_transfer
        return self._report(
            f"page-{name}", inputs, files, modules=modules, config=True, jobs=True, left_out=left_out, paper=True
        )

    def _validations(self, products: Iterable[Product], *, finished: bool) -> list[Product]:
        """Predictions of the validation split by the methods of table 3 among ``products``."""
        compared = {reference().name, *_names("baseline"), *_names("variant")}
        runs = [
            product
            for product in {product.name: product for product in products}.values()
            if product.spec.get("product") == "run"
            and product.spec["model"] in compared
            and product.spec["experiment"] in (MULTI_TASK, *task_names())
        ]
        found = self.analyses("validation", runs)
        return [product for product in found if product.done.is_file() or not finished]

    @cached_property
    def fingerprint(self) -> Product:
        """Digests of the cohorts and of their inputs, by which two builds are compared."""
        inputs = self._named([*map(self.data.product, self.data.shared), *self._cohorts()])
        settings = {"suppress_below": self.config.report.suppress_below}
        spec = self._made("fingerprint", inputs, settings, "flexcare_data.export.fingerprint")
        return self._sealed("fingerprint", spec, {"data/fingerprint.json": "fingerprint.json"}, inputs)

    @cached_property
    def image_list(self) -> Product:
        """The radiographs that the cohorts need, as a list."""
        return self._cohort_export(
            "image_list", {"image_list.txt": "image_list.txt"}, "flexcare_data.export.download_list"
        )

    @cached_property
    def meds_labels(self) -> Product:
        """The cohorts as MEDS label files."""
        # The first published name is a target, which must be a file.
        files = {f"meds_labels/{MANIFEST}": MANIFEST} | {f"meds_labels/{task}": task for task in self.data.tasks}
        return self._cohort_export("meds_labels", files, "flexcare_data.export.meds_labels")

    @cached_property
    def catalogue(self) -> Product:
        """The published tables as views of a DuckDB database."""
        inputs = self._named([*map(self.data.product, self.data.shared), *self._cohorts()])
        options = self.config.resolved_options.model_dump()
        if self.data.reads_reports:
            options["notes.reports"] = str(self.config.notes.reports)
        settings = {"options": options, "tasks": list(self.data.tasks)}
        spec = self._made("catalogue", inputs, settings, "flexcare_data.export.catalogue")
        spec["libraries"] = library_versions(["duckdb"])
        return self._sealed("catalogue", spec, {"benchmark.duckdb": "benchmark.duckdb"}, inputs)

    def _cohort_export(self, name: str, files: dict[str, str], module: str) -> Product:
        inputs = self._named(self._cohorts())
        return self._sealed(name, self._made(name, inputs, {}, module), files, inputs)

    def comparison(self, other: ModelPlan) -> Product:
        """Page that compares this configuration with the same one under the other protocol."""
        inputs: dict[str, Product] = {}
        for plan in (self, other):
            both = [*plan._cohorts(), plan.data.product("audit"), *plan.runs([reference().name], [MULTI_TASK])]
            inputs |= {f"{plan.config.protocol}/{name}": product for name, product in self._named(both).items()}
        for option, plan in self.priced.items():
            runs = plan.runs([reference().name], [MULTI_TASK])
            inputs |= {f"{option}/{name}": product for name, product in self._named(runs).items()}
        files = {"protocols/comparison.html": "page.html", "protocols/tables": "tables"}
        settings = self._report_settings() | {"code_version": _code_version(), "priced": list(PRICED)}
        spec = self._made("comparison", inputs, settings, "flexcare_model.report.write")
        return self._sealed("comparison", spec, files, inputs)

    @cached_property
    def temporal_split(self) -> Product:
        """Page that compares the split by time with the random split, and shows the groups of years."""
        inputs: dict[str, Product] = {}
        for side, plan in self.splits.items():
            runs = plan.runs([reference().name], [MULTI_TASK])
            read = [*plan._cohorts(), *runs]
            if side == "temporal":
                read += [plan.data.product("splits"), *plan.analyses("validation", runs)]
            inputs |= {f"{side}/{name}": product for name, product in self._named(read).items()}
        files = {"temporal_split/comparison.html": "page.html", "temporal_split/tables": "tables"}
        settings = self._report_settings() | {"code_version": _code_version(), "tasks": list(self.requested_tasks)}
        spec = self._made("temporal_split", inputs, settings, "flexcare_model.report.temporal_split")
        return self._sealed("temporal_split", spec, files, inputs)

    @property
    def is_as_published(self) -> bool:
        """Whether the configuration has the paper's protocol and data sets; the edition is known from the data only."""
        roots = {table.root for table in RAW.values()}
        has_all = all(self.data.root(root) is not None for root in roots)
        return has_all and self.config.resolved_options == PROTOCOLS["flexcare"]

    # --- common -------------------------------------------------------------------------------------------------

    def _cohorts(self) -> list[Product]:
        return [self.data.product(name) for name in self.data.cohorts]

    def _report_settings(self) -> dict[str, Any]:
        return {
            "suppress_below": self.config.report.suppress_below,
            "seeds": list(self.train.seeds),
            "synthetic": self.config.is_synthetic,
            "models": {name: _shown(model) for name, model in models().items()},
        }

    def _named_by_setting(self, reasons: Mapping[str, str]) -> dict[str, str]:
        """``reasons`` with the raw folders named by their settings, as a page must not depend on a path."""
        named = dict(reasons)
        for root, folder in self.data.roots().items():
            named = {task: reason.replace(str(folder), f"raw.{root}") for task, reason in named.items()}
        return named

    def _report(
        self,
        name: str,
        inputs: Iterable[Product],
        files: dict[str, str],
        *,
        modules: Iterable[str] = (),
        config: bool = False,
        jobs: bool = False,
        left_out: Mapping[str, str] | None = None,
        seeds: bool = True,
        paper: bool = False,
    ) -> Product:
        named = self._named(inputs)
        settings = self._report_settings()
        if paper:
            settings["as_published"] = self.is_as_published
        if not seeds:
            del settings["seeds"]
        if any(product.done.parent.name != "stages" for product in named.values()):  # runs are among the inputs
            settings["tasks"] = list(self.requested_tasks)
        if config:
            left_out = self._named_by_setting({**self.data.left_out, **self.not_trained, **(left_out or {})})
            settings |= {"config": self.config.deciding(), "left_out": left_out, "code_version": _code_version()}
        if jobs:
            settings["products"] = sorted(_all_keys(named.values()))
        spec = self._made(name, named, settings, "flexcare_model.report.write", *modules)
        return self._sealed(name, spec, files, named)

    def _made(
        self, name: str, inputs: Mapping[str, Product], settings: dict[str, Any], *modules: str
    ) -> dict[str, Any]:
        tasks = [f"flexcare_data.tasks.{task}" for task in task_names()]
        return {
            "product": name,
            "inputs": {name: product.key for name, product in inputs.items()},
            "settings": settings,
            "code": code_spec(*modules, *tasks),
            "libraries": library_versions(REPORT_LIBRARIES),
            "format": OUTPUT_FORMAT,
        }

    def _sealed(self, name: str, spec: dict[str, Any], files: dict[str, str], inputs: Mapping[str, Product]) -> Product:
        folder = self.data.by_key / f"{name}-{spec_key(spec)}"
        published = {link: folder / file for link, file in files.items()}
        return Product(name, spec, folder, folder / MANIFEST, published, dict(inputs))

    @staticmethod
    def _named(products: Iterable[Product]) -> dict[str, Product]:
        return {product.name: product for product in products}


def _code_version() -> str:
    """The version that pages show."""
    return library_versions(["flexcare"]).get("flexcare", "")


def _all_keys(products: Iterable[Product]) -> set[str]:
    """Keys of ``products`` and of everything that they were made from."""
    found, todo = set(), list(products)
    while todo:
        product = todo.pop()
        if product.key not in found:
            found.add(product.key)
            todo += product.inputs.values()
    return found


def _shown(model: DeclaredModel) -> dict[str, Any]:
    """What tables and pages show of a model."""
    return {name: value for name, value in asdict(model).items() if name not in ("bases", "settings")}


def _names(role: str) -> list[str]:
    return [model.name for model in models_of(role)]


def remove_damaged(by_key: Path) -> None:
    """Make products below ``by_key`` whose files are missing count as missing, so that they are made again."""
    for manifest in by_key.glob(f"*/{MANIFEST}"):
        if not is_complete(manifest.parent):
            remove(manifest)
    for metrics in by_key.glob("runs/*/metrics.json"):
        files = ("history.parquet",) if metrics.parent.name.startswith("interaction-") else RUN_FILES
        if not all((metrics.parent / file).exists() for file in files):
            remove(metrics)


def links_of(product: Product) -> dict[str, str]:
    """Published names of everything that ``product`` reads -> absolute paths."""
    found: dict[str, str] = {}
    for name, read in product.inputs.items():
        side, _, _ = name.rpartition("/")
        prefix = f"{side}/" if side else ""
        found |= {f"{prefix}{link}": str(Path(path).absolute()) for link, path in read.published.items()}
    return found
