# make demo   render a scene, segment it with words and clicks, look into demo/
# make test   all tests but those of full-size models
# make test-full   those of full-size models (gigabytes of generated weights)
# make real-weights   fetch real weights for the tests marked real, which skip without them
# make lint   ruff and mypy
# Each does all the set-up itself: a virtual environment in .venv with everything in it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-full real-weights lint clean
.DELETE_ON_ERROR:

$(READY): pyproject.toml synthetic/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "terraprompt needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@# the renderer needs terraprompt, whose tests need the renderer: first one alone, then the other
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable ./synthetic
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/terraprompt demo demo --overwrite

# One thread per worker: two workers on two cores do not fight for them.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-full: $(READY)
	$(BIN)/python -m pytest -m full

real-weights: $(READY)
	@$(BIN)/python tests/helpers/real_weights.py

lint: $(READY)
	$(BIN)/ruff check src synthetic tests bench examples
	$(BIN)/ruff format --check src synthetic tests bench examples
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo
