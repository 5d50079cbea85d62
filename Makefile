# `make demo` and `make test` need Python >= 3.10 and the package index; each sets up what it needs, once.
PYTHON ?= python3
VENV ?= .venv
STAMP := $(VENV)/.ovdet-installed
RUN := $(VENV)/bin/python

# `make demo IMAGE=photo.jpg VOCABULARY="red kite, wheel"` asks for other names on another photo
IMAGE ?=
VOCABULARY ?= tabby cat; kitten, dog, cup of coffee; espresso, spoon, motorcycle, wheel; tyre, person, hair, flower; daisy, pagoda; palace, building, helmet, umbrella
DATA ?= datasets/lite
SETS ?= $(DATA)/more
CARD ?= ovdet/assets/ovdet_lite/README.md
NUMBER ?= 1000

.PHONY: help .venv own demo quick reproduce lite test test-slow fuzz docs lint lock clean

help:            ## this list
	@grep -E '^[.a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | sort | expand -t 16

.venv: own       ## create the environment with all that ovdet needs

# Where the chosen Python already imports detectron2, the environment builds on it and on the torch it was compiled for.
# An environment without pip was left half made: venv adds what it lacks and deletes nothing.
$(STAMP): setup.py pyproject.toml requirements.lock ovdet/install.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: expected Python 3.10 or later, got " + sys.version.split()[0])'
	@test ! -x $(RUN) || $(RUN) tools/own_checkout.py || true
	@if $(PYTHON) -c 'from detectron2 import config, modeling' 2>/dev/null; then \
	    set -ex; $(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --system-site-packages $(VENV); \
	    $(RUN) -m pip install -q -e '.[dev]'; \
	else \
	    set -ex; $(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV); \
	    $(RUN) -m pip install -q --use-pep517 --no-deps --require-hashes -r requirements.lock; \
	    $(RUN) -m pip install -q --no-deps --no-build-isolation -e .; \
	fi
	$(RUN) tools/install_detectron2.py
	@touch $@

own: $(STAMP)
	@$(RUN) tools/own_checkout.py

demo: own        ## find names on photos with the detector that comes along: IMAGE=photo.jpg VOCABULARY="red kite, wheel"
	$(RUN) -m ovdet detect $(if $(IMAGE),"$(IMAGE)") --names "$(VOCABULARY)" --output output/demo

quick: own       ## train a small detector on drawn shapes for a minute or two
	$(RUN) -m ovdet train --config-file quick/vild

reproduce: own   ## the table of docs/results.md, hours on two cores: DATA=folder of photos and annotations
	$(RUN) tools/reproduce_lite.py --data "$(DATA)" --output output/reproduce_lite

lite: own        ## the default model from DATA (COCO photos) and SETS (further sets), hours: also CARD=card.md
	$(RUN) tools/make_lite.py --data "$(DATA)" --card "$(CARD)" --output output/make_lite \
	    --test "$(DATA)/instances_val.json=$(DATA)/images" --set dataset.more="$(SETS)" train.max_iter=7476

test: own        ## the tests, side by side; two to three minutes on two cores
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: own   ## the longer tests too
	$(RUN) -m pytest -m "slow or not slow" --timeout=1800

fuzz: own        ## mutated files of every kind, each read or refused in one line: NUMBER=6250 of each
	$(RUN) tests/fuzz/fuzz.py $(NUMBER)

docs: own        ## the documentation as a site in output/site; every link and every name of the API is checked
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml

lint: $(STAMP)   ## style and unused names
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

lock:            ## write requirements.lock anew: every version with its hashes, from setup.py and .constraints.txt; needs uv
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate \
	    --extra dev --extra docs setup.py \
	    -c .constraints.txt --custom-compile-command 'make lock' --output-file requirements.lock

clean:           ## remove the environment and what the commands wrote
	rm -rf $(VENV) output
