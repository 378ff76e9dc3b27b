# Everything below makes its own virtual environment in .venv; Python 3.10 or newer is all that is needed.
PYTHON ?= python3
OUT ?= demo-out
VENV = .venv
READY = $(VENV)/.ready

.PHONY: demo test check clean

# make demo [DATA=folder with images/ and masks/] [OUT=folder]
demo: $(READY)
	$(VENV)/bin/fastresunet demo --out $(OUT) $(if $(DATA),--data $(DATA))

test: $(READY) check
	$(VENV)/bin/python -m pytest -n auto
	TRITON_INTERPRET=1 $(VENV)/bin/python -m pytest -n auto tests/kernels

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
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache demo-out
