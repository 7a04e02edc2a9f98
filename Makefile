# Two commands do all the set-up: `make demo` (the main job on real data) and `make test`.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# onnxruntime-gpu exists for these platforms only; it serves machines without a GPU too.
EXTRA := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),gpu,cpu)

.PHONY: demo test check bench install clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRA),build,train,hf,dev]'
	touch $@

demo: install
	$(BIN)/edgeai demo --out demo --resume

test: check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart 0 --cov --cov-report=term --cov-fail-under=90

check: install
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

bench: install
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/peers/environments.py
	$(BIN)/python benchmarks/speed_peers.py --again
	$(BIN)/python benchmarks/speed_limits.py
	$(BIN)/python scripts/readme_table.py
	$(BIN)/python scripts/speed_page.py

clean:
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage*
