# make demo   installs into .venv, makes demo data, converts, trains, evaluates, prunes, retrains, exports, detects
# make test   installs into .venv with the development tools, checks the style, runs the tests on both backends
# make zoo    trains every backbone family on the demo's data and prints a table; an hour on two cores
# make bench  measures speed into bench/*.json: an hour on two quiet cores; TORCH_PYTHON=... names an interpreter
#             with PyTorch to compare with
# make clean  removes what these made
#
# PYTHON picks the interpreter (3.11 to 3.13), VENV the environment's folder, WORKERS the test processes.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

BIN := $(VENV)/bin
# What runs on every Keras backend, not only on TensorFlow; but for the readers of weight files, which are numpy alone.
CORE_TESTS := tests/boxes tests/models tests/deploy/test_predictors.py tests/quantization/test_fake_quant.py \
	tests/training/test_loss.py tests/training/test_schedules.py tests/training/test_pixels.py tests/training/test_shapes.py \
	tests/training/test_step.py \
	--ignore=tests/models/formats --ignore=tests/models/test_tao.py --ignore=tests/models/test_imagenet.py

BENCHMARKS := start_up training_step inference loss_share evaluate boxes data_path memory convert engines

.PHONY: demo test zoo bench clean

demo: $(VENV)/.installed-demo
	PATH="$(abspath $(BIN)):$$PATH" sh scripts/demo.sh

zoo: $(VENV)/.installed-demo
	PATH="$(abspath $(BIN)):$$PATH" sh scripts/zoo.sh

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n $(WORKERS)
	KERAS_BACKEND=jax $(BIN)/python -m pytest -n $(WORKERS) $(CORE_TESTS)

bench: $(VENV)/.installed-dev
	for name in $(BENCHMARKS); do \
	    $(BIN)/python scripts/benchmarks/$$name.py --json bench/$$name.json || exit 1; \
	done

# The package is installed in place, so only its metadata asks for a new installation.
$(VENV)/.installed-%: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "Python 3.11 to 3.13 is needed, $(PYTHON) is another: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) demo bench build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
