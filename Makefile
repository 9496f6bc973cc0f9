# One environment serves every target: VENV=path overrides it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

PACKAGES := ugatit_batch training engines plugins
# Folders too: their time changes when a file goes.
SOURCES := $(shell find $(PACKAGES) -not -name '*.pyc' -not -name __pycache__) pyproject.toml README.md LICENSE NOTICE

.PHONY: demo test editor gimp slow check bench gpu format clean

demo: $(VENV)/.wheel-demo  ## real photographs through the model that comes with the project
	$(BIN)/python scripts/demo_pictures.py demo-output/photos
	$(BIN)/ugatit-batch translate demo-output/photos --model ink --output demo-output/ink \
		--attention overlay --if-exists overwrite
	$(BIN)/python scripts/contact_sheet.py demo-output/photos demo-output/ink demo-output/sheet.png

test: $(VENV)/.wheel $(VENV)/.dev  ## the tests, against the built wheel
	UGATIT_BATCH_TEST_WHEEL=1 $(BIN)/pytest -n logical --dist loadfile

editor: $(VENV)/.wheel $(VENV)/.dev  ## the plug-in in a real Krita; installs Krita where it is missing
	sh scripts/install_krita.sh
	UGATIT_BATCH_TEST_WHEEL=1 $(BIN)/pytest -m editor tests/editors

gimp: $(VENV)/.wheel  ## the plug-in in a real GIMP 3, in a Debian of its own; as root, with debootstrap
	PYTHON=$(CURDIR)/$(BIN)/python bash scripts/gimp_check.sh

slow: $(VENV)/.wheel $(VENV)/.dev  ## the long repetitions
	UGATIT_BATCH_TEST_WHEEL=1 $(BIN)/pytest -m slow

check: $(VENV)/.wheel $(VENV)/.dev  ## style, types, layers, file sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_file_sizes.py

bench: $(VENV)/.wheel  ## throughput beside the bare network, and beside the published program's loop
	$(BIN)/ugatit-batch bench
	$(BIN)/ugatit-batch bench --video
	$(BIN)/python benchmarks/folder_run.py
	$(BIN)/python benchmarks/film_run.py
	$(BIN)/python benchmarks/watch_burst.py --files 1000 --known 0
	$(BIN)/python benchmarks/serve_overhead.py

# On a machine with an NVIDIA GPU, by the Python that is there (PyTorch 2.11 or later, pytest): nothing is
# installed but the wheels of WHEELS, if that is given, and those into gpu-output alone.
GPU_PYTHON ?= python3
GPU_OUT ?= gpu-output
gpu:  ## the gpu tests, step and engine benchmarks and a real training: make gpu SOURCE=photos TARGET=drawings
	$(if $(WHEELS),$(GPU_PYTHON) -m pip install --quiet --no-deps --no-index --target $(GPU_OUT)/packages $(WHEELS)/*.whl)
	PYTHONPATH=$(CURDIR):$(CURDIR)/training:$(CURDIR)/engines:$(CURDIR)/plugins:$(GPU_OUT)/packages \
		$(GPU_PYTHON) scripts/gpu_check.py --source $(SOURCE) --target $(TARGET) --out $(GPU_OUT) $(GPU_FLAGS)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf dist build demo-output gpu-output

$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	touch $@

# The wheel is what is tested and shown, never the checkout.
$(VENV)/.wheel: $(SOURCES) | $(VENV)/.pip
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/pip install --quiet dist/ugatit_batch-*.whl
	$(BIN)/pip install --quiet --no-deps --force-reinstall dist/ugatit_batch-*.whl
	touch $@

$(VENV)/.wheel-demo: $(VENV)/.wheel
	$(BIN)/pip install --quiet "$$(echo dist/ugatit_batch-*.whl)[demo]"
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.pip
	$(BIN)/pip install --quiet --group dev
	touch $@
