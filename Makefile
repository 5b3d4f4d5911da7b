# On a machine with Python >= 3.10, make and a package index, each target does all its own set-up.

PYTHON ?= python3
VENV ?= .venv
OUT ?= out/demo
TESTS ?=

EXTRAS := edge encryption cpu train export dev
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
empty :=
comma := ,

# uv as found on PATH; else pip fetches it into a folder of its own.
ifneq ($(shell uv --version 2>/dev/null),)
UV := uv
else
UV := .uv/bin/uv
FETCHED_UV := $(UV)
endif
export UV_PYTHON_DOWNLOADS := never
# A company's own certificates count too; the two names are of newer and older uv.
export UV_SYSTEM_CERTS ?= 1
export UV_NATIVE_TLS ?= 1
export UV_HTTP_TIMEOUT ?= 300

.PHONY: help demo test check setup constraints clean python headless

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

demo: $(INSTALLED)  ## the whole trip on a simulated site, scored: footage -> encoder -> bundle -> identities
	$(BIN)/reidge demo --output $(OUT) --overwrite

test: check  ## check, then every test; some only: make test TESTS=tests/edge
	$(BIN)/pytest $(TESTS)

check: $(INSTALLED)  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# The last numpy for Python 3.10 is typed more loosely than the code is checked against.
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; \
	then echo $(BIN)/mypy; $(BIN)/mypy; else echo 'mypy: left out on Python 3.10'; fi

setup: $(INSTALLED)  ## the environment in .venv, pinned by constraints.txt

constraints: $(FETCHED_UV)  ## pin the newest versions anew, for every Python from 3.10 on
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.10 pyproject.toml \
	  $(addprefix --extra ,$(EXTRAS)) \
	  --no-header --no-annotate --no-emit-index-url --output-file constraints.txt

clean:  ## remove the environment and what tools left behind; demo output stays
	rm -rf $(VENV) .uv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("reidge needs Python 3.10 or newer, $(PYTHON) is %d.%d. Choose another: make PYTHON=python3.12" % sys.version_info[:2])'

.uv/bin/uv: | python
	$(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet uv \
	  || { rm -rf .uv; $(PYTHON) -m pip install --quiet --target .uv uv; }

$(BIN)/python: | python $(FETCHED_UV)
	$(UV) venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)

# uv does not read pip's configuration, so it is handed the index that pip is told to use, if any.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	index="$${PIP_INDEX_URL:-$$($(PYTHON) -m pip config get global.index-url 2>/dev/null)}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi; \
	$(UV) pip install --python $(BIN)/python --constraint constraints.txt \
	  --editable '.[$(subst $(empty) ,$(comma),$(EXTRAS))]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || $(MAKE) --no-print-directory headless
	@touch $@

# Bare containers lack the desktop libraries that opencv-python links against.
headless:
	@$(BIN)/python -c 'import cv2' 2>&1 | tail -n 1
	@echo 'OpenCV does not load here: taking opencv-python-headless of the same version instead.'
	version=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("opencv-python"))'); \
	$(UV) pip uninstall --quiet --python $(BIN)/python opencv-python; \
	$(UV) pip install --quiet --reinstall --no-deps --python $(BIN)/python "opencv-python-headless==$$version"
	$(BIN)/python -c 'import cv2'
