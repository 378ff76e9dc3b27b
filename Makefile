# Everything below makes its own virtual environment in .venv; Python 3.10 or newer is all that is needed.
PYTHON ?= python3
VENV = .venv
READY = $(VENV)/.ready

.PHONY: demo test test-oldest check bench bench-full bench-model bench-cpu gpu-check clean

# make demo [DATA=folder with images/ and masks/] [OUT=folder]
demo: $(READY)
	$(VENV)/bin/fastresunet demo --out $(or $(OUT),demo-out) $(if $(DATA),--data $(DATA))

test: $(READY) check
	$(VENV)/bin/python -m pytest -n auto
	TRITON_INTERPRET=1 $(VENV)/bin/python -m pytest -n auto tests/kernels

# The oldest supported PyTorch and Triton: the layers of the network compiled, for one architecture, and folded operations
# interpreted. This Triton's interpreter takes arrays of one element for numbers, as newer versions of numpy do not.
OLDEST = .venv-oldest
NEEDS_EXTRAS = --ignore tests/training --ignore tests/keras --ignore tests/kernels/test_tuning.py \
	--ignore tests/benchmarks/test_pretraining.py --ignore tests/benchmarks/test_data_path.py
test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m pytest -n auto $(NEEDS_EXTRAS) --ignore tests/compiled
	$(OLDEST)/bin/python -m pytest -n auto tests/compiled/test_layers.py -k sm_90
	TRITON_INTERPRET=1 $(OLDEST)/bin/python -m pytest -n auto tests/kernels/test_folded.py

$(OLDEST)/.ready: pyproject.toml setup.py Makefile
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet torch==2.11.0 triton==3.6.0 'numpy<2.3' safetensors pytest pytest-xdist 'setuptools>=77'
	$(OLDEST)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# make bench [OUT=folder]: what fits this machine in ten minutes; bench-full: everything, for hours.
REPORT = $(or $(OUT),benchmarks/report)
bench: $(READY)
	$(VENV)/bin/python -m benchmarks.run --out $(REPORT)/results.json
	$(VENV)/bin/python -m benchmarks.report $(REPORT)/results.json
bench-full: $(READY)
	$(VENV)/bin/python -m benchmarks.run --full --largest-batch --out $(REPORT)/results.json
	$(VENV)/bin/python -m benchmarks.report $(REPORT)/results.json

# make bench-model [GPU=h100]: the modelled time of every layer on a GPU, on any machine.
bench-model: $(READY)
	$(VENV)/bin/python -m benchmarks.roofline --gpu $(or $(GPU),h100)
	$(VENV)/bin/python -m benchmarks.roofline --gpu $(or $(GPU),h100) --evaluation

# make gpu-check [OUT=folder] [PYTHON=python3]: within nine minutes, with a Python that has PyTorch and Triton; it
# installs nothing and uses no network. Exits with 1 if something is wrong, with 2 without a GPU.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check --out $(or $(OUT),gpu-check-out)

# Inference on this CPU: the published network and the folded one, each in several engines.
bench-cpu: $(READY)
	$(VENV)/bin/python -m pip install --quiet --editable ".[cpu]"
	$(VENV)/bin/python -m benchmarks.cpu_inference

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(READY): pyproject.toml setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "fastresunet needs Python 3.10 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks demo-out gpu-check-out
