# Functions of the rule that makes the published names, and of targets that do not exist.


@report_errors
def product_of(path):
    """The product that a published name shows; each product is found by its first published name."""
    begin()
    parts = path.split("/")
    if parts[0] == "runs":
        return MODELS.run(parts[1], parts[2], int(parts[3].removeprefix("seed")))
    if parts[0] == "cohorts":
        return PLAN.product(cohort_stage(Path(path).stem))
    if parts[0] == "tables":
        return MODELS.table(next(name for name, stems in TABLE_STEMS.items() if Path(path).stem in stems))
    if parts[0] == "figures":
        return MODELS.figure(Path(path).stem)
    if path in STAGE_NAMES:
        return PLAN.product(STAGE_NAMES[path])
    return PAGE_NAMES[path]()


def summaries_beside(path):
    """Products that describe the cohorts and their data, where ``path`` is one of these and not a summary itself."""
    summaries = [PLAN.product("audit"), MODELS.fingerprint, MODELS.catalogue]
    is_data = path.startswith("cohorts/") or STAGE_NAMES.get(path) in PLAN.shared
    return summaries if is_data else []


STAGE_NAMES = first_names()
PAGE_NAMES = {
    "analysis/statistics/estimates.parquet": lambda: MODELS.statistics,
    "card/DATASET_CARD.md": lambda: MODELS.card,
    "benchmark.duckdb": lambda: MODELS.catalogue,
    "data/fingerprint.json": lambda: MODELS.fingerprint,
    "image_list.txt": lambda: MODELS.image_list,
    "meds_labels/manifest.json": lambda: MODELS.meds_labels,
    "protocols/comparison.html": comparison,
    "temporal_split/comparison.html": temporal_split,
    **{f"{name}.html": (lambda name=name: MODELS.page(name)) for name in PAGES},
}
PUBLISHED = [
    *map(re.escape, [*STAGE_NAMES, *PAGE_NAMES]),
    f"cohorts/({'|'.join(task_names())})[.]parquet",
    f"runs/[a-z0-9_]+/({'|'.join(EXPERIMENTS)})/seed[0-9]+/metrics[.]json",
    *(f"tables/{stems[0]}[.]csv" for stems in TABLE_STEMS.values()),
    f"figures/({'|'.join(FIGURES)})[.]svg",
]


def shown(wildcards):
    """The product to show. A link to another product, or to nothing, is made again, whatever its date."""
    product = product_of(wildcards.published)
    if not is_published(product, CONFIG.output):
        report_errors(check_free)(product, CONFIG.output)
        name = f"{OUT}/{wildcards.published}"
        if os.path.lexists(name):
            workflow.dag.forcefiles.add(name)
            workflow.iocache.mtime[name] = Mtime(local=0.0)  # a dangling link has none
    return done(product)


def print_fingerprint():
    """Print the fingerprint of the cohorts, if this build made them or needed them; unless Snakemake is quiet."""
    from flexcare_data.export.fingerprint import read
    from snakemake.settings.types import Quietness

    path = f"{OUT}/{MODELS.fingerprint.target}"
    is_quiet = Quietness.ALL in (workflow.output_settings.quiet or ())
    is_made = any(path in map(str, job.output) for job in workflow.dag.jobs) and os.path.exists(path)
    if IS_MAIN and is_made and not is_quiet:
        lines = read(Path(path)).lines(CONFIG.report.suppress_below)
        print("fingerprint of the cohorts (flexcare fingerprint --compare FILE):", *lines, sep="\n", file=sys.stderr)
