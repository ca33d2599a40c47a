# Two commands matter: `make demo` and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
DATA ?= ../shared/data
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test test-slow faults check bench site clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/richkd demo --out runs/demo

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

# These tests fork their process. In one that has run other tests, the copies can fail, so they come first and alone.
KILLED := tests/training/test_killed.py

test-slow: install
	$(BIN)/python -m pytest -m slow $(KILLED)
	$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadfile --ignore $(KILLED)

# Kills, flipped bits, full disks, two writers and hostile files; at most 20 minutes on two cores.
faults: install
	$(BIN)/python -m tests.faults.campaign --page docs/reliability.md

# DATA is the folder that holds cifar100/; the machine should have nothing else to do.
bench: install
	PYTHONPATH=. $(BIN)/python benchmarks/compare.py --data $(DATA)/cifar100
	PYTHONPATH=. $(BIN)/python benchmarks/pieces.py
	PYTHONPATH=. $(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/plots.py

# The documentation as a site, in build/site/.
site: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv runs build .mypy_cache .pytest_cache .ruff_cache .hypothesis
