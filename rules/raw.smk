# Raw data: the embedded synthetic set, or a first look at the real one, which is used in place.


rule synthetic:
    output:
        done=touch(mark("synthetic")),
    params:
        arguments=stage_arguments("synthetic"),
        settings=shlex.join(word for name, value in CONFIG.synthetic for word in (f"--{name}", str(value))),
    log:
        f"{OUT}/logs/synthetic-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/synthetic-{{key}}.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    shell:
        "python -m flexcare_data synthetic {params.settings} {params.arguments} > {log:q} 2>&1"


@cache
def checked_key():
    """Key of the first look at the raw data: renewed when a table or the code of the doctor changes."""
    from flexcare_data.plan import code_spec
    from flexcare_data.schema import RAW

    begin()
    tables = sorted(
        {
            table
            for name in ("stays", "splits", "events", "sections", *PLAN.cohorts, "audit")
            for table in PLAN.stage(name).raw
        }
    )
    digests = {table: told(PLAN.raw_digest)(table) for table in tables}
    return spec_key({"raw": digests, "code": code_spec("flexcare_data.doctor.examine")})


def checked():
    """Mark of the first look at the raw data."""
    return ancient(f"{BY_KEY}/checked/{checked_key()}")


def doctor_config(wildcards):
    """A file with the resolved configuration, for the doctor."""
    text = CONFIG.model_dump_json(indent=1)
    path = Path(BY_KEY, "recipes", f"config-{spec_key(CONFIG.model_dump(mode='json'))}.json")
    if not DRY_RUN and not path.exists():
        from flexcare_data.store.folders import atomic_write

        atomic_write(path, text + "\n")
    return str(path)


rule check_raw:
    localrule: True
    output:
        done=touch(f"{BY_KEY}/checked/{{key}}"),
    params:
        config=doctor_config,
    log:
        f"{OUT}/logs/check_raw-{{key}}.log",
    shell:
        "python -m flexcare_data doctor --fast --configfile {params.config:q} > {log:q} 2>&1"


rule doctor:
    """What will go wrong, reported before anything runs: data sets, note encoder, disk, memory, GPU."""
    localrule: True
    params:
        config=doctor_config,
    log:
        f"{OUT}/logs/doctor.log",
    shell:
        "python -m flexcare_data doctor --configfile {params.config:q} 2>&1 | tee {log:q}"
