# Functions of the rules that train, analyse, and make tables, figures and pages.


def run_of(wildcards):
    """The run of a job, under this configuration or under one that a target compares with it."""
    name = (wildcards.model, wildcards.experiment, int(wildcards.seed))
    return in_plans(lambda plan: plan.run(*name), wildcards.key)


def run_inputs(wildcards):
    """Cohorts, series, radiographs and notes of a run, and the run whose weights it starts from."""
    return inputs_of(requested(run_of, wildcards))


def run_recipe(wildcards):
    """The recipe of a run."""
    run = requested(run_of, wildcards)
    pretrained = run.inputs.get("pretrained")
    return recipe(
        run,
        pretrained=str(pretrained.folder.absolute()) if pretrained else None,
        encoder=TOKEN_ENCODER,
        required=any(f"{OUT}/{name}" in sys.argv for name in run.published),
    )


# Only where the notes are stored as word-piece ids, which are embedded while training.
TOKEN_ENCODER = CONFIG.notes.encoder if CONFIG.notes.storage == "tokens" and CONFIG.notes.encoder != "tiny" else None
# Where and how fast a run is computed; this decides no result, so it is not in the key.
EXECUTION = shlex.join(
    f"--{name.replace('_', '-')}={getattr(CONFIG.train, name)}" for name in ("device", "workers", "data_device")
)


def reported_runs(wildcards):
    """Runs of `all`, by their published names."""
    return published(lambda: MODELS.reported_runs)(wildcards)


def analysis_of(kind):
    """The analysis of a job, under this configuration or under one that a target compares with it."""

    def product(wildcards):
        name = (kind, wildcards.model, wildcards.experiment, int(wildcards.seed))
        return in_plans(lambda plan: plan.analysis(*name), wildcards.key)

    return product


def analysis_inputs(kind):
    """What an analysis reads."""

    def inputs(wildcards):
        return inputs_of(requested(analysis_of(kind), wildcards))

    return inputs


def analysis_recipe(kind):
    """The recipe of an analysis, with the folder of its run."""

    def path(wildcards):
        product = requested(analysis_of(kind), wildcards)
        run = product.inputs.get("run")
        return recipe(product, run=str(run.folder.absolute()) if run else None, encoder=TOKEN_ENCODER)

    return path


def table_of(wildcards):
    """The tables of a job."""
    return MODELS.table(wildcards.table)


def figure_of(wildcards):
    """The figure of a job."""
    return MODELS.figure(wildcards.figure)


def page_of(wildcards):
    """The page of a job."""
    return MODELS.page(wildcards.page)


def comparison(wildcards=None):
    """The comparison of the protocols."""
    begin()
    for plan in (MODELS.other_protocol, *MODELS.priced.values()):
        renew_marks_of(plan)
    return MODELS.comparison(MODELS.other_protocol)


def temporal_split(wildcards=None):
    """The comparison of the split by time with the random split."""
    begin()
    for plan in MODELS.splits.values():
        renew_marks_of(plan)
    return MODELS.temporal_split
