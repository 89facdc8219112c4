# `make repro` rebuilds what is stale, `make test` runs every check. Both make .venv and install into it when needed.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& command -v "$$python" && break; done)
# The key of the installed state: it changes with the folder, the requirements and the versions.
KEY := $(firstword $(shell { pwd; cat pyproject.toml constraints.txt; } | cksum))
RUN := .venv/.installed-run-$(KEY)
FLOWS := .venv/.installed-flows-$(KEY)
DEV := .venv/.installed-dev-$(KEY)
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check

# The stages call `midivae` and `dvc`: those of .venv come first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export ITERATIVE_DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help repro serve rollback git test lint format test-slow docs site notebook constraints clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

repro: git $(RUN)  ## Rebuild every stage that is stale (dvc repro); the first time some 10 minutes, 2.3 GB of disk
	.venv/bin/dvc repro
	@printf '%s\n' '' 'Done. See and hear the samples:' \
	'  data/report/index.html                   open it in a browser: pictures and sound, no server needed' \
	'  .venv/bin/midivae explore                move between pieces and listen' \
	'  .venv/bin/midivae catalog --limit 10     the table of samples; with pandas: data/samples/catalog' \
	'For more samples, edit section generate of params.yaml and run `make repro` again: docs/generate.md'

serve: git $(FLOWS)  ## Retrain every night: server, worker and deployments on this machine
	.venv/bin/python -m flows serve

rollback: $(FLOWS)  ## Publish the previous champion again
	.venv/bin/python -m flows rollback

git:
	@git rev-parse --is-inside-work-tree >/dev/null 2>&1 || { \
	echo 'make repro: DVC keeps its records beside git, and this folder is in no git repository; run `git init` first,' \
	'or `.venv/bin/midivae run` to run the stages without DVC' >&2; exit 1; }

lint: $(DEV)  ## Check style, types and imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test: lint  ## Check style, types and imports, and run the tests; some 5 minutes, 2.8 GB of disk
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadgroup

test-slow: $(DEV)  ## Run the tests that take minutes
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadgroup -m slow

format: $(DEV)  ## Format the code
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

docs: $(DEV)  ## Write docs/cli.md and the figure of the packages from the code
	.venv/bin/python docs/regenerate.py
	.venv/bin/python docs/packages.py

site: $(DEV)  ## Write docs/ as a site into site/, for a browser without a network
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict

notebook: $(DEV)  ## Open the notebook that queries, plots and selects samples
	.venv/bin/marimo edit notebooks/catalog.py

constraints:  ## Resolve all requirements again and write constraints.txt
	rm -rf .venv-fresh && $(PYTHON) -m venv .venv-fresh
	.venv-fresh/bin/python -m pip install --quiet --disable-pip-version-check '.[dev,flows,cluster]'
	{ sed -n '/^#/p' constraints.txt; .venv-fresh/bin/python -m pip freeze --exclude midivae \
	| sed 's/+[a-z0-9.]*$$//'; } > constraints.new
	mv constraints.new constraints.txt && rm -rf .venv-fresh

clean:  ## Remove the files of tools; .venv, data and .midivae stay
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find midivae flows tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo 'midivae needs Python 3.11, 3.12 or 3.13, and none is on PATH; install one, or name' \
	'it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)' >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

$(RUN): | .venv/bin/python
	$(PIP) -c constraints.txt -e .
	@touch $@

$(FLOWS): | .venv/bin/python
	$(PIP) -c constraints.txt -e '.[flows]'
	@touch $@ $(RUN)

$(DEV): | .venv/bin/python
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@ $(RUN) $(FLOWS)
