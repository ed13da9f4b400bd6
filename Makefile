# `make help` lists the commands. Windows, or no make? The README has the plain commands.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The environment's interpreter. `make test SETUP=no PY=python` uses an environment you made yourself (conda, CPU-only torch).
PY ?= .venv/bin/python
SETUP ?= yes
# Processes that share the tests.
JOBS ?= 2

# Any Python can start the set-up; which one makes .venv is decided, and explained, in tools/setup_env.py.
ANY_PYTHON = $$(for p in python3 python python3.15 python3.14 python3.13 python3.12 python3.11 "$$PYTHON"; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1 && { command -v "$$p"; break; }; done)

.PHONY: help setup lab dashboard test test-long mutants test-oldest reliability coverage verify-hub report gallery benchmark pictures checkpoints seeds study lock audit clean

help:  ## list the commands
	@echo "ecaviz: how SE and ECA networks weigh their channels"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup:  ## make .venv from requirements.lock (the others do this first; nothing to do the second time)
ifeq ($(SETUP),yes)
	@python=$(ANY_PYTHON); if [ -z "$$python" ]; then \
		echo "error: no Python was found; install Python 3.11 or newer, with venv, or name one: make lab PYTHON=/path/to/python3" >&2; exit 1; \
	fi; PYTHON="$(PYTHON)" "$$python" tools/setup_env.py
endif

lab: setup  ## open JupyterLab at notebooks/00_tour.ipynb (without a display: print the address)
	@$(PY) tools/lab.py

# make dashboard THEME=dark
THEME ?= light
dashboard: setup  ## the explorers alone, as one page without code (THEME=dark; without a display: print the address)
	@$(PY) tools/dashboard.py --theme "$(THEME)"

test: setup  ## lint, then the tests: library, notebooks, a real browser
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) tools/strip_notebooks.py --check
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-long: setup  ## the tests that take long: more seeds, trained models evaluated anew, all faults, and the mutants
	$(PY) -m pytest -m "long and not gpu and not network" -n $(JOBS) --dist load
	$(PY) -m pytest tests/faults -m "not long and not gpu and not network" -n $(JOBS) --dist load
	$(PY) tools/mutants.py --jobs $(JOBS)

mutants: setup  ## change the core modules on purpose, and see that a test fails each time (a quarter of an hour)
	$(PY) tools/mutants.py --jobs $(JOBS)

# Deprecations are errors where everything is new; here old packages meet younger ones that they did not know.
test-oldest: setup  ## with a network: the tests with the oldest versions that pyproject.toml allows (wants a Python 3.11)
	$(PY) -m uv venv --quiet --clear --python 3.11 build/oldest
	$(PY) -m uv pip install --quiet --python build/oldest/bin/python --resolution lowest-direct -e ".[lab,parquet,test,bench]"
	build/oldest/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -W ignore::DeprecationWarning

reliability: setup  ## break everything on purpose, and write what happened into docs/reliability.md
	rm -rf build/faults
	$(PY) -m pytest tests/faults -m "not gpu and not network" -n $(JOBS) --dist load --deselect tests/faults/test_reliability_page.py
	$(PY) tools/reliability.py

coverage: setup  ## which lines and branches the tests run that need no browser and no notebook, into docs/reliability.md
	$(PY) -m pytest -n $(JOBS) --dist loadfile -m "not gpu and not network and not long and not browser and not notebook" \
		--cov --cov-report=term-missing:skip-covered --cov-report=json:build/coverage.json
	$(PY) tools/reliability.py --coverage build/coverage.json

verify-hub: setup  ## with a network: fetch one ECA, one legacy SE and one torchvision network (225 MB) and check them
	$(PY) -m pytest -m network --tb=line tests/test_network.py

report: setup  ## run every notebook without a browser into build/report/index.html
	$(PY) -m ecaviz report

gallery: setup  ## run every notebook into docs/gallery, Markdown and PNG, to be read where nothing runs
	$(PY) tools/gallery.py

benchmark: setup  ## measure: every script in benchmarks/, one after the other
	@set -e; for script in benchmarks/[a-z]*.py; do echo "$(PY) $$script"; $(PY) "$$script"; done

pictures: setup  ## draw the README's pictures anew: docs/tour.png and the animation docs/explorer.gif
	$(PY) tools/readme_pictures.py

checkpoints: setup  ## train the bundled models of the procedural set that are missing (all: one to three hours on a CPU; resumable)
	$(PY) -m ecaviz train --bundle

seeds: setup  ## train what is missing of the survey's seeds, 0 to 4 (all: three to six hours on a CPU; resumable)
	$(PY) -m ecaviz train --survey --seed 0 --seed 1 --seed 2 --seed 3 --seed 4

# Which recipe; CIFAR10=/a/folder has the images, else torchvision fetches them.
RECIPE ?= data/recipes/cifar10-cpu.toml
study: setup  ## train what is missing of the study of k on CIFAR-10 (three hours on two cores; resumable; RECIPE=, CIFAR10=)
	$(PY) -m ecaviz train --recipe $(RECIPE) $(if $(CIFAR10),--root "$(CIFAR10)")

lock:  ## write requirements.lock anew from pyproject.toml (newer versions too: make lock UPGRADE=--upgrade)
	@test -x "$(PY)" || $(MAKE) --no-print-directory setup
	$(PY) tools/lock.py $(UPGRADE)

audit: setup  ## with a network: look every package of the lock up in a database of known vulnerabilities
	$(PY) tools/audit.py

clean:  ## remove .venv, the caches, the report and the screenshots (not what is being trained in build/)
	rm -rf .venv build/report build/screens build/faults build/oldest mutants .coverage .pytest_cache .ruff_cache ecaviz.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
