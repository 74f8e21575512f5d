# `make`       sets up .venv and runs the default benchmark, ending in results/quick/report.html
# `make test`  sets up what the tests need and runs them all
# `make check` lint, and the tests that need no Ray, Slurm or browser and start no other program for long
# `make docs`  builds the documentation, site/index.html
# `make gpu-lock` installs what GPU nodes run, 11 GB in .venv-gpu, and looks at it; needs no GPU (docs/gpu.md)
# `make gpu-check`  what works on this machine's GPU, in ten minutes, with the Python that is there: results/gpu/report.html
PYTHON ?= python3.11
# PyTorch's own index of CPU builds, if you have one at hand: a far smaller download than the default build. TORCH_HASH is
# for a build that the lock does not know, sha256:...
TORCH_INDEX ?=
TORCH_HASH ?=
BENCHMARK ?= benchmarks/quick.yaml
# For `make gpu-check`: folders of Qwen2.5-0.5B-Instruct and GSM8K where the hub cannot be reached.
MODEL ?=
DATA ?=

BIN := .venv/bin
LOCK := requirements/cpu.lock
RESULTS := results/$(basename $(notdir $(BENCHMARK)))
CORES := $(shell nproc)
MEMORY_MB := $(shell awk '/MemAvailable/ { print int($$2 / 1024) }' /proc/meminfo)
DEBIAN_PACKAGES := chromium slurm-wlm munge
# Rooms whose tests are quick; the others start runs, plans, pages or whole verifications.
QUICK := $(addprefix tests/,algorithm config measure records slurm stats tables tasks update verdicts test_layout.py)

# Snakemake starts scripts by the path of .venv without quotes, and PATH is split at colons. The last range is what is not
# ASCII, which both take.
ifneq ($(shell pwd -P | LC_ALL=C tr -d 'A-Za-z0-9/._+@%=,~\n\200-\377-' | wc -c),0)
$(error the path of this folder, $(CURDIR), holds a blank or another character that a shell does not take as it is: move it to a path of letters, digits and . _ + @ % = , ~ - alone)
endif

export PATH := $(CURDIR)/$(BIN):$(PATH)
# pip and Python read them; a build without docstrings cannot import transformers.
unexport PYTHONHOME PYTHONOPTIMIZE PYTHONWARNINGS PYTHONINSPECT PYTHONSTARTUP
# Two things at once: Debian packages beside the lock, lint beside the tests.
MAKEFLAGS += --jobs=2

.PHONY: all test check setup lint pytest quick docs gpu-check gpu-lock clean
all: setup
	snakemake --cores $(CORES) --resources mem_mb=$(MEMORY_MB) --config benchmark=$(BENCHMARK)
	@echo "$(RESULTS)/report.html"

setup: .venv/.done

# Packages are compiled on all cores, where pip takes one. Left to the imports, every process would compile again all that
# it imports where PYTHONDONTWRITEBYTECODE is set. Packages hold templates, too, which are no Python: hence `true`.
.venv/.done: $(LOCK) requirements/install.sh pyproject.toml
	@echo "installing $(LOCK) into .venv (some minutes)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	TORCH_INDEX='$(TORCH_INDEX)' TORCH_HASH='$(TORCH_HASH)' bash requirements/install.sh $(LOCK)
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib 2> /dev/null || true
	touch $@

test: lint pytest

# One worker more than cores of the smallest machine, for tests that start others wait for them.
pytest: setup .venv/.debian
	python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 40

check: lint quick

quick: setup
	python -m pytest --quiet --numprocesses 2 --hypothesis-profile quick -m "not verl and not cluster and not browser" $(QUICK)

.venv/.debian: Makefile
	@mkdir -p .venv
	@for package in $(DEBIAN_PACKAGES); do \
	    dpkg-query --show $$package > /dev/null 2>&1 && continue; \
	    echo "installing Debian package $$package"; \
	    apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends $$package || exit 1; \
	done
	touch $@

lint: setup
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow/rules tests/cluster/stub.smk
	snakemake --lint --quiet

docs: setup
	python -m sphinx --quiet --fail-on-warning --builder html docs site
	@echo site/index.html

gpu-lock:
	test -x .venv-gpu/bin/python || $(PYTHON) -m venv .venv-gpu
	PATH='$(CURDIR)/.venv-gpu/bin':$$PATH bash requirements/install.sh requirements/gpu.lock
	.venv-gpu/bin/python -m tests.gpu_lock

# .venv's where there is one, else whatever has torch and transformers: nothing is installed.
gpu-check:
	python3 -m groupppo.cli.gpu_check $(if $(MODEL),--model '$(MODEL)') $(if $(DATA),--data '$(DATA)')

clean:
	rm -rf results/quick .snakemake
