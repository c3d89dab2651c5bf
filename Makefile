# make demo    from a raw table of people to a deployed private model (ARGS="callbacks.privacy.epsilon=8")
# make test    linter, types, doctests and the test suite           (ARGS="-k sampler")
# make check   linter, types and doctests only
# make docs    the documentation, as pages in build/docs
# make bench-federated   federated rounds against pfl and Flower, in an environment of its own (ARGS=--quick)
# make clean   removes the environment and everything built or run here
#
# Each makes the virtual environment and installs into it when that is missing or out of date. PYTHON says
# which interpreter makes it (3.11 or newer); VENV where it lies.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

override BIN := $(VENV)/bin
# What the environment was installed from, kept in it word by word: comparing the contents, not the times,
# leaves it alone after a branch switch that changes neither file.
override STAMP := $(VENV)/.installed-from
override SOURCES := pyproject.toml setup.py constraints.txt
# One thread for each test process: two processes of pytest-xdist share the cores.
override ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help env demo test check docs bench-federated clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

env:
	@if ! { echo "$(CURDIR)"; cat $(SOURCES); } | cmp -s - "$(STAMP)"; then \
		set -e; \
		if ! test -x "$(BIN)/pip"; then \
			echo "Making the virtual environment $(VENV) with $(PYTHON)"; \
			"$(PYTHON)" -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d; say which with: make PYTHON=python3.12" % sys.version_info[:2])'; \
			"$(PYTHON)" -m venv "$(VENV)"; \
		fi; \
		echo "Installing lightning_privacy and what it needs into $(VENV) (once; it takes some minutes)"; \
		"$(BIN)/python" -m pip install --quiet --constraint constraints.txt --editable '.[dev]'; \
		{ echo "$(CURDIR)"; cat $(SOURCES); } > "$(STAMP)"; \
	fi

demo: env
	@"$(BIN)/lightning-privacy" experiment=persona $(ARGS)

check: env
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	$(ONE_THREAD) "$(BIN)/pytest" --quiet --doctest-modules lightning_privacy

test: check
	$(ONE_THREAD) "$(BIN)/pytest" --quiet --numprocesses 2 --dist loadfile $(ARGS)

docs: env
	@test -x "$(BIN)/mkdocs" || "$(BIN)/python" -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=true "$(BIN)/mkdocs" build --config-file docs/mkdocs.yml

bench-federated:
	@test -x "$(VENV)-federated/bin/python" || "$(PYTHON)" -m venv "$(VENV)-federated"
	"$(VENV)-federated/bin/python" -m pip install --quiet --editable . --requirement benchmarks/federated-requirements.txt
	"$(VENV)-federated/bin/python" -m pip install --quiet --no-deps pfl==0.6.0
	"$(VENV)-federated/bin/python" benchmarks/federated.py $(ARGS)

clean:
	rm -rf "$(VENV)-federated"
	rm -rf "$(VENV)" runs multirun build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
