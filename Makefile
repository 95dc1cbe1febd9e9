# make demo    ask the embedded model about pictures           make check   all that must hold before a commit
# make test    run the tests                                  make bench   speed and memory, each against a named rival
# Both of the first two make .venv and install into it if need be; a second call installs nothing.

PYTHON      ?= python3
VENV        ?= .venv
# The index that torch is taken from, if not the one where pip looks anyway: README.md has two.
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP = $(1)/bin/python -m pip --disable-pip-version-check
# Threads that sleep while they wait: beside another program, those that spin wait for each other for minutes.
THREADS := OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test check format bench test-debian test-oldest test-newest test-edge newest test-peer test-ray wheels gpu clean

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
	$(THREADS) $(BIN)/python -m pytest

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
	$(THREADS) $(BIN)/python -m pytest -m debian

# The ends of the range of transformers that pyproject.toml allows, each in an environment of its own.
test-oldest:
	@$(MAKE) --no-print-directory .venv-oldest/.edge EDGE="transformers==5.18.*"
	$(THREADS) .venv-oldest/bin/python -m pytest

test-newest: newest
	$(THREADS) .venv-newest/bin/python -m pytest

# The main path alone: a minute. What continuous integration runs besides `check`, to see a new release on its first day.
test-edge: newest
	$(THREADS) .venv-newest/bin/python -m pytest tests/test_main_path.py

# The newest release is asked for at each call. A dry run finds out whether pip reaches an index: else it would be content with what
# is installed, and say nothing.
newest:
	@$(MAKE) --no-print-directory .venv-newest/.edge EDGE="$(NEWEST)"
	$(call PIP,.venv-newest) install -q --dry-run --ignore-installed --no-deps "$(NEWEST)"
	$(call PIP,.venv-newest) install -q -U -c .venv-newest/constraints.txt "$(NEWEST)" -e ".[dev]"
	@.venv-newest/bin/python -c 'import transformers; print("transformers", transformers.__version__)'

NEWEST := transformers>=5.18,<6

# transformers brings its own versions of the hub's packages; all else is as in constraints.txt.
%/.edge: pyproject.toml constraints.txt
	test -x $*/bin/python || $(PYTHON) -m venv $*
	grep -v -E '^(transformers|tokenizers|huggingface_hub|hf-xet|safetensors)==' constraints.txt > $*/constraints.txt
	$(call torch,$*,$*/constraints.txt)
	$(call PIP,$*) install -q -c $*/constraints.txt "$(EDGE)" -e ".[dev]"
	touch $@

# Jobs on Ray, which is large: in an environment of its own.
test-ray: .venv-ray/.ray
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE .venv-ray/bin/python -m pytest tests/jobs -m ray

.venv-ray/.ray: pyproject.toml constraints.txt
	test -x .venv-ray/bin/python || $(PYTHON) -m venv .venv-ray
	$(call torch,.venv-ray,constraints.txt)
	$(call PIP,.venv-ray) install -q -c constraints.txt -e ".[pdf,extract,batch,train]" pytest hypothesis
	$(call PIP,.venv-ray) install -q -c constraints.txt "ray[data]==2.60.0"
	touch $@

# transformers' own tests on our classes. Its source package, of the release that constraints.txt names, is fetched into build/peer, from
# where the tests are run. PEER_TESTS=folder is the `tests` folder of a checkout of transformers: tests of generation come with it.
test-peer: .venv-peer/.tests
	$(THREADS) .venv-peer/bin/python -m pytest -c tests/peer/pytest.ini tests/peer

.venv-peer/.tests: pyproject.toml constraints.txt
	test -x .venv-peer/bin/python || $(PYTHON) -m venv .venv-peer
	$(call torch,.venv-peer,constraints.txt)
	$(call PIP,.venv-peer) install -q -c constraints.txt -e ".[dev]" parameterized requests
	rm -rf build/peer
	.venv-peer/bin/python -m pip download --disable-pip-version-check -q --no-deps --no-binary transformers -d build/peer $$(grep '^transformers==' constraints.txt)
	cd build/peer && tar -xzf transformers-*.tar.gz --strip-components=1 $$(tar -tzf transformers-*.tar.gz | grep '^[^/]*/tests/.')
	touch $@

# On a machine with a GPU, torch and its usual companions, where pip has no network: `make wheels` elsewhere fetches the rest into .whl,
# for that machine's Python.
GPU_PYTHON ?= 3.12
DEVICE     ?= cuda
MINUTES    ?= 8
LAYERS     ?= 24
FOUND      := $(or $(OUT),build)/gpu
COMPANIONS := torch|numpy|pillow|sympy|mpmath|networkx|fsspec|Jinja2|MarkupSafe|regex|hypothesis|safetensors|sentencepiece|pydantic|pydantic_core|Pygments
FOR_CPUS   := bitsandbytes|torchao|openvino|openvino-telemetry|av|mypy|mypy_extensions|ast_serialize|librt|ruff|grimp|import-linter
PLATFORMS  := manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux1_x86_64

wheels:
	rm -rf .whl
	(grep -v -E '^(#|($(COMPANIONS)|$(FOR_CPUS))==)' constraints.txt; echo hatchling trove-classifiers) | xargs $(PYTHON) -m pip download -q \
		--no-deps --only-binary=:all: --python-version $(GPU_PYTHON) --implementation cp $(PLATFORMS:%=--platform %) -d .whl
	du -sh .whl

# GPU tests, the four benchmarks that take a device, then the embedded model's training for MINUTES with a process a core that renders.
# With DEVICE=cpu LAYERS=2 MINUTES=2 it tries itself. What came out is in build/gpu, or in the folder OUT.
gpu: SHELL := /bin/bash -o pipefail
gpu:
	mkdir -p $(FOUND)
	test ! -d .whl || { $(carried) .whl/*.whl && PYTHONPATH=.gpu-site $(carried) --no-build-isolation .; }
	$(gpu_run) -m pytest -m gpu -p no:cacheprovider tests/test_gpu.py 2>&1 | tee $(FOUND)/tests.txt
	@for name in encoder compression questions generation; do echo "== $$name"; \
		$(gpu_run) benchmarks/$$name.py --device $(DEVICE) --layers $(LAYERS) --figures $(FOUND)/performance.json || echo "missed or failed: $$name"; \
		done 2>&1 | tee $(FOUND)/benchmarks.txt
	@for stage in "nano-12-heads start=src/minimonkey/nano" "nano-13-finds publish=null"; do set -- $$stage; \
		$(gpu_run) -m minimonkey.cli.main train recipes/train/$$1.yaml $$2 \
		material=available workers=$$(nproc) log_every=1 max_minutes=$(MINUTES) || exit; done 2>&1 | tee $(FOUND)/training.txt
	cp runs/nano-13-finds/log.jsonl $(FOUND)/training.jsonl

carried = $(PYTHON) -m pip install -q --no-index --no-deps --no-compile --upgrade --target .gpu-site
gpu_run = MINIMONKEY_DEVICE=$(DEVICE) PYTHONPATH=.gpu-site $(PYTHON)

# torch alone is taken from TORCH_INDEX; what it needs comes with the package, from where pip looks anyway.
torch = $(if $(TORCH_INDEX),$(call PIP,$(1)) install -q -c $(2) --no-deps --index-url $(TORCH_INDEX) torch)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(call torch,$(VENV),constraints.txt)
	$(call PIP,$(VENV)) install -q -c constraints.txt -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(call torch,$(VENV),constraints.txt)
	$(call PIP,$(VENV)) install -q -c constraints.txt -e ".[dev]"
	touch $(VENV)/.base $@

clean:
	rm -rf .venv .venv-oldest .venv-newest .venv-peer .venv-ray .whl .gpu-site build dist demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
