# The two commands of the README, and what continuous integration runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-compat test-vllm lint types contracts check format clean

quickstart: $(VENV)/.installed
	$(BIN)/armorm train recipes/quickstart.yaml -o runs/quickstart

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2

# Exported folders on the oldest transformers they support, in an environment of its own.
test-compat: $(VENV)/.installed
	sh scripts/test_compat.sh

# The vLLM plugin on the real vLLM, in an environment of its own.
test-vllm:
	PYTHON=$(PYTHON) sh scripts/test_vllm.sh

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
