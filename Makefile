# `make` lists what there is. Every target makes .venv first where it is missing or out of date.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
VENV_BIN := $(abspath $(VENV))/bin
PY := $(VENV_BIN)/python
READY := $(VENV)/.ok
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
WORKED_EXAMPLES := $(sort $(wildcard tests/*.ipynb))

# DVC hashes a notebook's file: what an editor saves in it beside the cells must not re-run a stage
STRIP := nbstripout --extra-keys "metadata.language_info metadata.widgets cell.metadata.execution"
NBVAL := -m pytest -x --nbval-lax --nbval-current-env --nbval-cell-timeout=300 --nbval-sanitize-with tests/nbval.cfg
# the worked examples keep the outputs that nbval compares, and the counts by which it knows that they were run
STRIP_WORKED := $(STRIP) --keep-count
# the study's folder for one shell command; the command's exit status outlives the clean-up
IN_SCRATCH := scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && export IRGPT_ARTIFACTS="$$scratch"

export PATH := $(VENV_BIN):$(PATH)
export TOKENIZERS_PARALLELISM := false

.PHONY: help repro grid test bench report lab lint strip clean

help:  ## list the targets
	@echo "make TARGET, where TARGET is one of:"
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## */  \1\t/' | expand -t 12
	@echo "PYTHON=... chooses the interpreter (3.11 to 3.13), VENV=... the environment's folder, ARGS=... is passed on."

$(READY): pyproject.toml requirements.lock
	@python=""; for candidate in $(PYTHON) $(if $(PYTHON),,python3.13 python3.12 python3.11 python3); do \
	  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; \
	  then python="$$candidate"; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11, 3.12 or 3.13 is needed; looked for: $(or $(PYTHON),python3.13 python3.12 python3.11 python3)." >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	echo "Making $(VENV) with $$("$$python" --version); about 2 GB and a few minutes, once."; \
	"$$python" -m venv $(VENV); \
	$(VENV)/bin/python -m pip install -qq --disable-pip-version-check -c requirements.lock -e '.[test]'; \
	touch $@; echo "$(VENV) is ready."

repro: $(READY) strip  ## run what is out of date: the whole study, from data to report
	@dvc repro $(ARGS)
	@echo "The report: artifacts/report/index.html"

grid: $(READY)  ## run the further rows of Tables 2-4 and the controls, several at a time
	@$(PY) -m irgpt_lib.grid $(ARGS)
	@dvc commit --force grid

test: $(READY)  ## library, worked examples and every notebook at the smallest scale
	@echo "== the library"
	@$(PY) -m pytest $(ARGS)
	@$(if $(WORKED_EXAMPLES),echo "== equations worked by hand" && $(PY) $(NBVAL) $(WORKED_EXAMPLES))
	@$(if $(NOTEBOOKS),echo "== the notebooks in order at the profile smoke" && $(IN_SCRATCH) && \
	  IRGPT_PROFILE=smoke IRGPT_RUNS=cl-0 PYTHONHASHSEED=0 TQDM_DISABLE=1 $(PY) $(NBVAL) notebooks)

bench: $(READY)  ## what each choice costs, beside a named peer
	@$(PY) -m tests.bench $(ARGS)

report: $(READY)  ## write the pages of artifacts/report again from the executed notebooks
	@$(PY) -m irgpt_lib.report.site

lab: $(READY)  ## open the notebooks in JupyterLab
	@jupyter lab notebooks $(ARGS)

lint: $(READY)  ## check style, in the library, the tests and the notebooks, and that notebooks hold no output
	@ruff check .
	@ruff format --check --quiet .
	@$(if $(NOTEBOOKS),$(STRIP) --verify $(NOTEBOOKS))
	@$(if $(WORKED_EXAMPLES),$(STRIP_WORKED) --verify $(WORKED_EXAMPLES))

strip: $(READY)  ## take outputs and an editor's marks out of the notebooks
	@for notebook in $(NOTEBOOKS); do \
	  $(STRIP) --verify "$$notebook" >/dev/null || { echo "stripping $$notebook"; $(STRIP) "$$notebook"; }; done
	@for notebook in $(WORKED_EXAMPLES); do \
	  $(STRIP_WORKED) --verify "$$notebook" >/dev/null || { echo "stripping $$notebook"; $(STRIP_WORKED) "$$notebook"; }; done

clean:  ## remove the environment and caches; results stay
	@rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis irgpt_lib.egg-info artifacts/failed artifacts/build artifacts/cache
	@find irgpt_lib tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Removed. artifacts/ and .dvc/cache stay; \`dvc gc -w\` empties the cache of what the tree no longer uses."
