# MedCoT: `make help` lists the targets. Everything runs through .venv; with it activated the bare commands work too.
PY := .venv/bin/python
CLI := .venv/bin/llamafactory-cli
SOURCE ?= data/sample.jsonl
# LLaMA-Factory calls torchrun by its name where there are several GPUs.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# On a CPU that others use too, threads that spin while they wait cost 6 times the time (12 QLoRA steps: 31 s, or 5 s).
export OMP_WAIT_POLICY ?= PASSIVE
# On an H100, H200 or B200 PyTorch's first choice of attention, cuDNN's, plans anew for each shape of a batch.
export TORCH_CUDNN_SDPA_DEPRIORITIZED ?= 1
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev lock demo train eval review webchat api chat export test test-all lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 11

setup: ## build .venv from requirements.txt (once; does nothing while the lock is unchanged)
	@sh scripts/setup.sh

setup-dev: ## the same with what tests, loggers and benchmarks want
	@sh scripts/setup.sh dev

lock: setup ## resolve requirements*.in into their locks again
	$(PY) -m scripts.lock

demo: setup ## the whole road on a CPU in a few minutes; SOURCE=records.json (COLUMNS=…) for own records
	@$(PY) -m scripts.demo --source $(SOURCE) $(if $(COLUMNS),--columns $(COLUMNS))

train: setup ## preflight checks, then llamafactory-cli train; RECIPE=yamls/qlora.yaml ARGS="key=value"
	@$(PY) -m scripts.train.preflight $(or $(RECIPE),yamls/qlora.yaml) $(ARGS)
	$(CLI) train $(or $(RECIPE),yamls/qlora.yaml) $(ARGS)

eval: setup ## evaluate base and tuned model; MODEL, ADAPTER, RECIPE, ENGINE=hf|server, BUDGET, LIMIT (default: last run)
	@ls saves/*/adapter_config.json >/dev/null 2>&1 || $(PY) -m scripts.demo
	@$(PY) -m scripts.evaluate $(if $(MODEL),--model $(MODEL)) $(if $(ADAPTER),--adapter $(ADAPTER)) \
	  $(if $(RECIPE),--recipe $(RECIPE)) $(if $(ENGINE),--engine $(ENGINE)) $(if $(BUDGET),--budget $(BUDGET)) \
	  $(if $(LIMIT),--limit $(LIMIT)) $(ARGS)

review: setup ## vote on pairs of answers, blind: a small page on 127.0.0.1
	@$(PY) -m scripts.evaluate review $(ARGS)

webchat: setup ## LLaMA-Factory's WebChat on 127.0.0.1:7860; RECIPE=yamls/webchat.yaml ARGS="--port 7861 key=value"
	@$(PY) -m scripts.chat.serve webchat $(or $(RECIPE),yamls/webchat.yaml) $(ARGS)

api: setup ## an OpenAI-compatible server on 127.0.0.1:8000; RECIPE=yamls/webchat.yaml
	@$(PY) -m scripts.chat.serve api $(or $(RECIPE),yamls/webchat.yaml) $(ARGS)

chat: setup ## the chat page on 127.0.0.1:7863, with a server of its own; RECIPE=yamls/webchat.yaml ARGS=--compare
	@$(PY) -m scripts.chat --recipe $(or $(RECIPE),yamls/webchat.yaml) $(ARGS)

export: setup ## merge the adapter, say what that changed, Modelfile for Ollama; RECIPE=yamls/merge.yaml ARGS="key=value"
	@$(PY) -m scripts.export $(or $(RECIPE),yamls/merge.yaml) $(ARGS)

test: setup-dev ## core tests, no network, no GPU
	$(PY) -m pytest $(ARGS)

test-all: setup-dev ## also the slow ones: kills, two processes, browsers
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get -qq update && \
	  apt-get -qq install -y --no-install-recommends chromium fonts-noto-cjk >/dev/null; } || \
	  echo "no chromium here: the browser tests will be skipped"
	$(PY) -m pytest -m "slow or not slow" $(ARGS)

lint: setup-dev ## ruff check and format
	.venv/bin/ruff check . && .venv/bin/ruff format --check .

clean: ## remove what the demo, training and evaluation wrote (prepared data and .venv stay)
	rm -rf saves results data/demo data/demo-*
