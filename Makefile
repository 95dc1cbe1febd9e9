# make demo    ask the embedded model about pictures           make check   all that must hold before a commit
# make test    run the tests                                  make bench   speed and memory, each against a named rival
# Both of the first two make .venv and install into it if need be; a second call installs nothing.

PYTHON      ?= python3
VENV        ?= .venv
# Where torch comes from, if not PyPI: https://download.pytorch.org/whl/cpu for a small CPU wheel, .../whl/cu130 for CUDA 13.
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test check format bench test-debian test-oldest test-newest clean

help:
	@sed -n '1,3s/^# //p' Makefile

demo: $(VENV)/.base
	@mkdir -p demo
	@echo '$$ minimonkey inspect examples/receipt.png --out demo/pyramid.png'
	@$(BIN)/minimonkey inspect examples/receipt.png --out demo/pyramid.png
	@$(call ask,receipt,How much is the coffee?)
	@$(call ask,receipt,What is the total?)
	@$(call ask,receipt,Read the line that begins with Apple.)
	@$(call ask,page,What is the title?)

# A question about one of the examples: the command, and what the embedded model says.
ask = echo; echo '$$ minimonkey ask examples/$(1).png "$(2)"'; $(BIN)/minimonkey ask examples/$(1).png "$(2)" --max-new-tokens 80

test: $(VENV)/.dev
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory test

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Each says with its exit code whether its bars hold; these five are what several of them share.
BENCHMARKS := $(filter-out internvl2_1b page plot reader report,$(basename $(notdir $(wildcard benchmarks/*.py))))

bench: $(VENV)/.dev
	@missed=; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || missed="$$missed $$name"; done; \
		test -z "$$missed" || { echo "missed or failed:$$missed"; exit 1; }

# Draws the frozen sets anew; needs all that `minimonkey data packages` names.
test-debian: $(VENV)/.dev
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m debian

# The ends of the range of transformers that pyproject.toml allows, each in an environment of its own.
test-oldest:
	@$(MAKE) --no-print-directory .venv-oldest/.edge EDGE="transformers==5.18.*"
	OMP_NUM_THREADS=2 .venv-oldest/bin/python -m pytest

test-newest:
	@$(MAKE) --no-print-directory .venv-newest/.edge EDGE="transformers>=5.18,<6"
	OMP_NUM_THREADS=2 .venv-newest/bin/python -m pytest

# transformers brings its own versions of the hub's packages; all else is as in constraints.txt.
%/.edge: pyproject.toml constraints.txt
	test -x $*/bin/python || $(PYTHON) -m venv $*
	grep -v -E '^(transformers|tokenizers|huggingface_hub|hf-xet|safetensors)==' constraints.txt > $*/constraints.txt
	$*/bin/python -m pip install --disable-pip-version-check -q -c $*/constraints.txt $(torch_source) "$(EDGE)" -e ".[dev]"
	touch $@

torch_source = $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) --extra-index-url https://pypi.org/simple)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt $(torch_source) torch
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt $(torch_source) torch
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	touch $(VENV)/.base $@

clean:
	rm -rf .venv .venv-oldest .venv-newest build dist demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
