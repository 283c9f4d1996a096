# The one entry: every target sets up what it needs in .venv.

.PHONY: help demo test test-all check docs tree bench bench-gpu clean

# The first Python 3.11 to 3.14 on the path that can make virtual environments.
PYTHON ?= $(shell for python in python3 python3.12 python3.13 python3.11 python3.14 python; do \
	if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; \
	then echo $$python; break; fi; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: .venv/.runs  ## draw a small CelebA, build it, verify it, train on it, open the report
	@$(BIN)/facepack demo

test: check  ## lint, types and all tests but the slow ones, two files at a time
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-all: test  ## lint, types and all tests, the slow ones one at a time
	$(BIN)/python -m pytest -m slow

check: .venv/.tests  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.docs  ## build the site into site/, without network; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/index.html: the site, $$(find site -name '*.html' | wc -l) pages"

tree: .venv/.made  ## make the tree in docs/design.md from the files' docstrings
	@$(BIN)/python docs/source_tree.py

bench: .venv/.tests  ## measure: make bench SRC=celeba DETECT=photos-with-counted-faces PHOTOS=jpegs SIMPSONS=simpsons
	@test -n "$(SRC)" || (echo "make bench: say where CelebA lies: make bench SRC=data/celeba" >&2; exit 2)
	$(BIN)/python benchmarks/build.py --src $(SRC)
	@test -z "$(DETECT)" || $(BIN)/python benchmarks/align.py --celeba $(SRC) --detect $(DETECT)
	@test -z "$(PHOTOS)" || $(BIN)/python benchmarks/loader.py --photos $(PHOTOS)
	@test -z "$(SIMPSONS)" || $(BIN)/python benchmarks/fit.py --celeba $(SRC) --simpsons $(SIMPSONS)

bench-gpu: .venv/.tests  ## on a GPU: its tests and benchmarks, in eight minutes, without network or data
	$(BIN)/python benchmarks/gpu.py

clean:  ## remove what the other targets made, but no data and no build
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist demo site

.venv/.made:
	@test -n "$(PYTHON)" || (echo "facepack needs Python 3.11, 3.12, 3.13 or 3.14 with venv on the path" >&2; exit 1)
	@echo "setting up .venv with $(PYTHON); the first time this takes a few minutes"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.runs: .venv/.made pyproject.toml constraints.txt
	@$(PIP) --editable '.[train]'
	@touch $@

.venv/.docs: .venv/.runs
	@$(PIP) --editable '.[docs]'
	@touch $@

.venv/.tests: .venv/.runs
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps facenet-pytorch  # what it pins is years old; only the shape of its network is compared
	@touch $@
