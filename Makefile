# `make help` lists the targets. Each of them installs what it needs into .venv, once.

BIN := .venv/bin
# Holds this folder's path: a virtual environment does not survive a move, so a moved or copied one is made anew.
STAMP := .venv/installed-in
# Without PYTHON=..., the first of these that fits.
PYTHONS := $(or $(PYTHON),python3 python3.11 python3.12 python3.10)
FITS := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))

.DEFAULT_GOAL := help
.PHONY: ablation bench clean docs format help install lint report run soak test

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv and install everything; done by the other targets too (PYTHON=python3.12)

ablation: $(STAMP) ## run the ablation suite and write its tables (SUITE=digits ARGS=--dry-run)
	@$(BIN)/graphkd ablation $(SUITE) $(ARGS)

run: $(STAMP) ## distil one student (ARGS="builder=knn gnn=gat")
	@$(BIN)/graphkd run $(or $(ARGS),builder=knn gnn=gat)

report: $(STAMP) ## turn the records in results/ into tables (ARGS="--out DIR")
	@$(BIN)/graphkd report results/ $(ARGS)

bench: $(STAMP) ## measure speed and memory on this machine (ARGS=--quick)
	@$(BIN)/graphkd bench $(ARGS)

test: $(STAMP) ## run the tests (ARGS="-k knn")
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

soak: $(STAMP) ## kill real runs and suites again and again, for minutes (ARGS="-k crd")
	@$(BIN)/python -m pytest -m soak tests/soak $(ARGS)

docs: $(STAMP) ## build the pages of docs/ into docs/_build/html; a warning is an error
	@$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --jobs auto docs docs/_build/html $(ARGS)
	@echo "open docs/_build/html/index.html"

format: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

lint: $(STAMP) ## check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

clean: ## remove .venv, caches and build outputs; results/ stays
	@rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist docs/_build docs/api *.egg-info
	@find graphkd graphkd_cli tests -name __pycache__ -type d -prune -exec rm -rf {} +

ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(BIN)/python
endif

$(BIN)/python:
	@python=$$(for each in $(PYTHONS); do "$$each" -c '$(FITS)' 2>/dev/null && echo "$$each" && break; done); \
	if [ -z "$$python" ]; then \
		echo "graphkd needs Python 3.10, 3.11 or 3.12, found none as: $(PYTHONS) (try: make install PYTHON=/path/to/python)" >&2; \
		exit 1; \
	fi; \
	echo "creating .venv with $$($$python --version)"; \
	rm -rf .venv && $$python -m venv --without-pip .venv

$(STAMP): $(BIN)/python pyproject.toml Makefile
	@command -v uv >/dev/null || [ -x $(BIN)/uv ] \
		|| { $(BIN)/python -m ensurepip --default-pip >/dev/null && $(BIN)/python -m pip install -q uv; } \
		|| { echo "graphkd installs with uv, which is not here and could not be had through pip (see above)" >&2; exit 1; }
	@echo "installing graphkd and what it needs into .venv (once; torch is large)"
	@quiet=$$([ -t 2 ] || echo --quiet); \
	PATH="$$PATH:$(CURDIR)/$(BIN)" uv pip install $$quiet --compile-bytecode --python $(BIN)/python -e '.[dev]' pip
	@echo '$(CURDIR)' >$@
