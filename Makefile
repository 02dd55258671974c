# MedCoT: `make help` lists the targets. Everything runs through .venv; with it activated the bare commands work too.
# Variables count from the command line only: COLUMNS or MODEL in the environment (set by watch, Emacs, CI) change nothing.
PY := .venv/bin/python
given = $(if $(filter command,$(firstword $(origin $1))),$($1))
quoted = '$(subst ','\'',$1)'
option = $(if $(call given,$2),$1 $(call quoted,$(call given,$2)))
recipe = $(call quoted,$(or $(call given,RECIPE),$1))
ARGUMENTS = $(call given,ARGS)
# LLaMA-Factory calls torchrun by its name where there are several GPUs.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# On a CPU that others use too, threads that spin while they wait cost 6 times the time (12 QLoRA steps: 31 s, or 5 s).
export OMP_WAIT_POLICY ?= PASSIVE
# On an H100, H200 or B200 PyTorch's first choice of attention, cuDNN's, plans anew for each shape of a batch.
export TORCH_CUDNN_SDPA_DEPRIORITIZED ?= 1
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-vllm lock demo train eval review webchat api chat export test test-all lint clean clean-all

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: ## build .venv from requirements.txt (once; does nothing while the lock is unchanged)
	@sh scripts/setup.sh

setup-dev: ## the same with what tests, loggers and benchmarks want
	@sh scripts/setup.sh dev

setup-vllm: ## build .venv-vllm for `make eval ENGINE=vllm` (an NVIDIA GPU; several GB)
	@sh scripts/setup.sh vllm

lock: setup ## resolve requirements*.in into their locks again
	$(PY) -m scripts.lock

demo: setup ## the whole pipeline on a CPU; SOURCE=records.json COLUMNS="…", BASE=tiny or BASE=ID TEMPLATE=NAME, STEPS=N
	@$(PY) -m scripts.demo $(call option,--source,SOURCE) $(if $(call given,COLUMNS),--columns $(COLUMNS)) \
	  $(call option,--base,BASE) $(call option,--template,TEMPLATE) $(call option,--steps,STEPS)

train: setup ## preflight checks, then llamafactory-cli train; RECIPE=yamls/qlora.yaml ARGS="key=value"
	@$(PY) -m scripts.train $(call recipe,yamls/qlora.yaml) $(ARGUMENTS)

eval: setup ## base against fine-tune, by default the last run; MODEL, ADAPTER, ENGINE=hf|vllm|server, BUDGET, LIMIT, VLLM
	@[ -n "$(call given,ENGINE)$(call given,MODEL)$(call given,ADAPTER)" ] || \
	  ls saves/*/adapter_config.json >/dev/null 2>&1 || { echo "no fine-tune here yet: running the demo first"; $(PY) -m scripts.demo; }
	@$(PY) -m scripts.evaluate $(call option,--model,MODEL) $(call option,--adapter,ADAPTER) $(call option,--engine,ENGINE) \
	  $(if $(call given,BUDGET),--budget $(BUDGET)) $(call option,--limit,LIMIT) $(call option,--vllm,VLLM) $(ARGUMENTS)

review: setup ## vote on pairs of answers, blind: a small page on 127.0.0.1
	@$(PY) -m scripts.evaluate review $(ARGUMENTS)

webchat: setup ## LLaMA-Factory's WebChat on 127.0.0.1:7860, the last run's; RECIPE=yamls/webchat.yaml ARGS="--port 7861 key=value"
	@$(PY) -m scripts.chat webchat $(call option,,RECIPE) $(ARGUMENTS)

api: setup ## an OpenAI-compatible server on 127.0.0.1:8000, of the last run; RECIPE, ARGS as for webchat
	@$(PY) -m scripts.chat api $(call option,,RECIPE) $(ARGUMENTS)

chat: setup ## our chat page on 127.0.0.1:7863, the last run's; RECIPE and ARGS, ARGS=--compare for the base model beside it
	@$(PY) -m scripts.chat chat $(call option,,RECIPE) $(ARGUMENTS)

export: setup ## merge the last run's adapter, say what that changed, Modelfile for Ollama; RECIPE=yamls/merge.yaml ARGS="key=value"
	@$(PY) -m scripts.export $(if $(call given,RECIPE),$(call recipe)) $(ARGUMENTS)

test: setup-dev ## core tests, no network, no GPU
	$(PY) -m pytest $(ARGUMENTS)

test-all: setup-dev ## also the slow ones: kills, two processes, browsers
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get -qq update && \
	  apt-get -qq install -y --no-install-recommends chromium fonts-noto-cjk >/dev/null; } || \
	  echo "no chromium here: the browser tests will be skipped"
	$(PY) -m pytest -m "slow or not slow" $(ARGUMENTS)

lint: setup-dev ## ruff check and format
	.venv/bin/ruff check . && .venv/bin/ruff format --check .

DEMO := $(wildcard saves/demo* saves/.demo*.lock saves/tiny_base results/demo* results/.demo*.lock data/demo data/demo-*)
clean: ## remove what the demo wrote, but for its base model (other runs, prepared data and .venv stay)
	@echo "removing: $(or $(DEMO),nothing there)"; rm -rf $(DEMO)

ALL := $(wildcard saves results data/demo data/demo-* .venv-vllm unsloth_compiled_cache)
clean-all: ## name every run, result and model that is there, ask, and remove them
	@[ -n "$(ALL)" ] || { echo "nothing to remove"; exit 0; }; du -shc $(ALL) 2>/dev/null; ls -d saves/* results/* 2>/dev/null; \
	  printf 'Remove all of this? Type yes: '; read answer && [ "$$answer" = yes ] && rm -rf $(ALL) || { echo "kept"; exit 1; }
