# make run              the agent, at the address it prints      make run ARGS="--port 7999"
# make test             all tests; what they need is installed
# make bench            the figures, ours beside a named peer's  (bench/results.json)
# make check            types and style                          make format
# make lock             pin the dependencies anew                make clean

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := pip install --quiet --disable-pip-version-check
MODELS := .cache/models

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test bench check format lock clean system-packages

help:
	@grep '^# make' Makefile | cut -c3-

run: .venv/run.done web/dist/index.html
	$(BIN)/python bot/main.py $(ARGS)

# Two processes: most of what the tests do is wait, in real time, for calls that
# they hold.
test:
	@$(MAKE) --no-print-directory --jobs=3 test-needs
	PYTEST_ADDOPTS="$$(tools/without-missing.sh)" \
		$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# Side by side, as most of it is waiting for downloads.
.PHONY: test-needs
test-needs: .venv/test.done web/dist/index.html system-packages models check

bench: .venv/test.done web/dist/index.html system-packages models
	$(BIN)/python -m bench $(ARGS)

check: .venv/test.done web/node_modules/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(NPM) run --silent check
	$(NPM) run --silent test

format: .venv/test.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Environments. The agent's own holds no torch; what makes the tests' models has one of its own.

.venv/run.done: requirements.lock pyproject.toml
	tools/venv.sh .venv $(PYTHON)
	$(BIN)/$(PIP) -r requirements.lock
	$(BIN)/$(PIP) --no-deps --editable .
	@touch $@

.venv/test.done: .venv/run.done requirements-test.lock
	$(BIN)/$(PIP) -r requirements-test.lock
	@touch $@

.venv-models/done: requirements-models.lock pyproject.toml
	tools/venv.sh .venv-models $(PYTHON)
	.venv-models/bin/$(PIP) -r requirements-models.lock
	.venv-models/bin/$(PIP) --no-deps --editable .
	@touch $@

lock: .venv/test.done
	$(BIN)/$(PIP) uv
	tools/lock.sh $(BIN)/uv

# The page.

NPM := tools/npm.sh $(BIN)

web/node_modules/done: web/package.json web/package-lock.json web/.npmrc | .venv/run.done
	@echo "installing what the page is built with"
	@$(NPM) ci --silent --no-audit --no-fund
	@touch $@

PAGE := $(shell find web/src web/public web/stubs -type f) $(wildcard web/*.html web/*.ts web/*.json)

web/dist/index.html: web/node_modules/done $(PAGE)
	@echo "building the page"
	@$(NPM) run --silent build
	@touch $@

# What tests and benchmarks listen to and run on.

.PHONY: models
models: $(MODELS)/piper-small.onnx $(MODELS)/piper-small-speakers.onnx \
	$(MODELS)/piper-medium.onnx $(MODELS)/whisper-tiny-random/model.bin \
	$(MODELS)/pocket-tiny-random/pocket.yaml $(MODELS)/csm-tiny-random/config.json \
	.cache/speech/goforward.wav

$(MODELS)/piper-small.onnx: tools/models/make_piper_voice.py | .venv-models/done
	.venv-models/bin/python $< $@ --quality small

$(MODELS)/piper-small-speakers.onnx: tools/models/make_piper_voice.py | .venv-models/done
	.venv-models/bin/python $< $@ --quality small --speakers 3

$(MODELS)/piper-medium.onnx: tools/models/make_piper_voice.py | .venv-models/done
	.venv-models/bin/python $< $@ --quality medium

$(MODELS)/whisper-tiny-random/model.bin: tools/models/make_whisper.py | .venv-models/done
	.venv-models/bin/python $< $(@D)

$(MODELS)/pocket-tiny-random/pocket.yaml: tools/models/make_pocket.py | .venv-models/done
	.venv-models/bin/python $< $@

$(MODELS)/csm-tiny-random/config.json: tools/models/make_csm.py | .venv-models/done
	.venv-models/bin/python $< $(@D)

.cache/speech/goforward.wav: tools/models/fetch_recordings.py .venv/test.done
	$(BIN)/python $<

system-packages:
	@tools/system-packages.sh

clean:
	rm -rf .venv .venv-models .cache web/dist web/node_modules
