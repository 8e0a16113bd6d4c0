# make help lists the targets. Only Python >= 3.11 and make are needed: everything else goes into .venv.
# PYTHON names another interpreter: make setup PYTHON=/opt/python3.12/bin/python3.12

PYTHON ?=
CORES ?= 2
BIN := .venv/bin
DATA := flexcare_data flexcare_model tests

.PHONY: help setup demo test test-builds test-pages test-slurm drill lint bench coverage wheel lock clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: ## create .venv with the pinned packages (about 3 GB to download, 6 GB on disk)
	@PYTHON="$(PYTHON)" sh .ci/setup

demo: setup ## build everything on embedded synthetic data and print the path of the report
	@$(BIN)/snakemake --cores $(CORES) all --config output=demo
	@echo "report: $(CURDIR)/demo/report.html"

test: setup ## the tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-builds: setup ## a matrix over settings, two accounts on one store, the paper on small data (half an hour)
	@$(BIN)/python -m pytest -m builds tests/workflow tests/properties

test-pages: setup ## every command of the documents (seven minutes)
	@$(BIN)/python -m pytest -m pages tests/workflow/test_documents.py

test-slurm: setup ## the workflow on a SLURM of one node that the tests start (needs munge and slurm-wlm installed)
	@$(BIN)/python -m pytest -m slurm tests/slurm

drill: setup ## kill every stage and build at every moment (half an hour)
	@$(BIN)/python -m pytest -m drill -n 2 tests/faults

lint: setup ## ruff, codespell, mypy, import contracts, snakefmt
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/snakefmt --check Snakefile rules

coverage: setup ## the tests, and the lines that none of them executes (longer than make test)
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report term --cov-report html
	@echo "coverage: $(CURDIR)/build/coverage/html/index.html"

bench: setup ## timings of the heavy stages, compared with their goals
	@status=0; for name in events images embed batches model_step; do \
	    echo "== $$name"; PYTHONPATH=tests $(BIN)/python tests/bench/bench_$$name.py || status=1; \
	done; exit $$status

wheel: setup ## build the package: dist/flexcare-VERSION-py3-none-any.whl
	@rm -rf build/lib dist
	@$(BIN)/python -m pip wheel . --no-deps --no-build-isolation --quiet --wheel-dir dist
	@ls dist/*.whl

lock: ## renew requirements.lock from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --quiet \
	    --custom-compile-command "make lock" -o requirements.lock

clean: ## remove results and caches, keep .venv
	rm -rf demo results .snakemake .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
	find $(DATA) -name __pycache__ -type d -prune -exec rm -rf {} +
