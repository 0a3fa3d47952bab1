# Everything below works from a bare checkout: the environment is made when it is missing.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

TRANSFORMERS_4 := $(VENV)/transformers4/.ready

.PHONY: demo test test-matrix lint format bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The documentation strings of the installed libraries become a corpus; a guided encoder is trained on two
# processes, killed, resumed and compared with an undisturbed run; then evaluated, exported and reported.
demo: $(READY)
	rm -rf corpora/demo runs/demo runs/demo-undisturbed
	$(MAKE) corpora/demo/manifest.json
	$(PY) -m benchmarks.resume demo --processes 2 --kill-at 110 --compare-until 130
	$(PY) -m pipeline evaluate runs/demo
	$(PY) -m pipeline evaluate runs/demo --task probe
	$(PY) -m pipeline export runs/demo
	$(PY) -m pipeline report runs/demo
	@echo 'open runs/demo/report/report.html'

corpora/demo/manifest.json: | $(READY)
	$(PY) -m data_prep sample corpora/demo.jsonl --overwrite
	$(PY) -m data_prep tokenizer corpora/demo.jsonl --out corpora/demo-tokenizer --vocab-size 8192 --overwrite
	$(PY) -m data_prep shard corpora/demo.jsonl --tokenizer corpora/demo-tokenizer --out corpora/demo \
		--length 64 --valid-fraction 0.02

test: $(READY) $(TRANSFORMERS_4)
	$(PY) -m pytest --numprocesses 2 --dist loadgroup

# What the default run samples, whole: every kind of tokenizer and model family trained, evaluated and exported.
test-matrix: $(READY) $(TRANSFORMERS_4)
	$(PY) -m pytest --numprocesses 2 --dist load -m matrix

# Beside the environment, not in it: exports must open in transformers 4, too.
$(TRANSFORMERS_4): tests/tokenizers/transformers4.txt | $(READY)
	rm -rf $(@D)
	$(PY) -m pip install --quiet --no-deps --target $(@D) --requirement $<
	touch $@

lint: $(READY)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: $(READY)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: $(READY) corpora/demo/manifest.json
	$(PY) -m benchmarks.guidance
	rm -rf runs/bench-resume runs/bench-resume-undisturbed
	$(PY) -m benchmarks.resume demo --processes 2 --kill-at 25 --compare-until 40 \
		--set run_dir=runs/bench-resume --set train.num_steps=50 --set checkpoint.every_steps=10
	$(PY) -m benchmarks.onset corpora/demo --out runs/bench-onset
	$(PY) -m benchmarks.pull corpora/demo --out runs/bench-pull
	$(PY) -m benchmarks.prep
	$(PY) -m benchmarks.loader
	$(PY) -m benchmarks.throughput
	$(PY) -m benchmarks.overhead
	$(PY) -m benchmarks.checkpoint
	$(PY) -m benchmarks.optimizer
	$(PY) -m benchmarks.torture --kills 100
	$(PY) -m benchmarks.memory
	$(PY) -m benchmarks.communication
	$(PY) -m benchmarks.scaling check

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
