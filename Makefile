# Two commands do everything on a fresh Debian machine: `make rl` and `make test`.
VENV ?= .venv
WORKERS ?= 2 # processes that tests run in; 0: in one, as plain pytest
BIN := $(VENV)/bin
export PYTHONSAFEPATH := 1

.PHONY: setup rl test bench lint clean
setup:
	@VENV=$(VENV) .ci/setup

rl: setup ## the default experiment as a real Slurm job over two nodes; words=... adds overrides
	@VENV=$(VENV) slurm/local/run experiment=arithmetic $(words)

test: setup
	@$(BIN)/python -m pytest -n $(WORKERS) $(args)

bench: setup ## what a machine without a GPU can measure; see benchmarks/README.md
	@env -u PYTHONSAFEPATH $(BIN)/python -m benchmarks $(args)

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && shellcheck .ci/run .ci/setup slurm/*.sbatch slurm/*.sh

clean: ## the cluster in a box, the environment and caches; runs/ stays
	@slurm/local/down || true
	@rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
