# Two commands from nothing but Python 3.11+, a C++ compiler and this checkout:
#   make demo   runtime environment, 240 phantoms, an index, four queries
#   make test   everything that training and export need, then the test suite
# Debian: apt-get install python3-venv python3-dev build-essential

PYTHON ?= python3
DEMO ?= demo
VENV := .venv
DEV := .venv-dev
MCR := $(VENV)/bin/mcr-infer

.PHONY: demo test lint types contracts check wheel clean

demo: $(VENV)/.installed
	rm -rf $(DEMO)
	$(MCR) demo $(DEMO)/dicoms --count 240
	$(MCR) embed-images $(DEMO)/dicoms --index $(DEMO)/mcr-index
	$(VENV)/bin/python benchmarks/demo.py $(DEMO)

test: $(DEV)/.installed
	$(DEV)/bin/python -m pytest

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .

types: $(DEV)/.installed
	$(DEV)/bin/mypy

contracts: $(DEV)/.installed
	$(DEV)/bin/lint-imports --no-cache

check: test lint types contracts

wheel: $(DEV)/.installed
	rm -rf dist
	$(DEV)/bin/python -m build --wheel

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)/bin/python -m pip install --quiet --editable '.[cpu,codecs]'
	touch $@

$(DEV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(DEV)/bin/python -m pip install --quiet --editable '.[cpu,codecs]' --group dev
	touch $@

clean:
	rm -rf $(VENV) $(DEV) $(DEMO) dist
