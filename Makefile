# The two commands of the README, and what continuous integration runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart real test test-compat test-vllm test-browser wheel test-wheel docs lint types contracts check format clean

quickstart: $(VENV)/.installed
	$(BIN)/armorm train quickstart -o runs/quickstart

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2

# recipes/smollm2.yaml on a real model and your data: make real DATA=folder SIZE=small|full
real: $(VENV)/.installed
	$(BIN)/python scripts/real_model.py

# Exported folders on the oldest transformers they support, in an environment of its own.
test-compat: $(VENV)/.installed
	sh scripts/test_compat.sh $(TRANSFORMERS)

# The vLLM plugin on the real vLLM, in an environment of its own.
test-vllm:
	PYTHON=$(PYTHON) sh scripts/test_vllm.sh

# The wheel and the source distribution, the wheel built from the latter.
wheel: $(VENV)/.installed
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python scripts/check_distributions.py dist

# The wheel alone in a clean environment.
test-wheel: wheel
	PYTHON=$(PYTHON) sh scripts/test_wheel.sh

# The documentation site, in site/: python -m http.server -d site
docs: $(VENV)/.installed
	$(BIN)/mkdocs build --strict

# The pages in a real Chromium: on the path, or named by CHROMIUM.
test-browser: $(VENV)/.installed
	$(BIN)/python -m pytest tests/in_browser

lint: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

contracts: $(VENV)/.installed
	$(BIN)/lint-imports

check: lint types contracts test

format: $(VENV)/.installed
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

$(VENV)/.installed: pyproject.toml constraints.txt scripts/install.sh
	PYTHON=$(PYTHON) sh scripts/install.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) .venv-compat-* .venv-vllm runs build dist
