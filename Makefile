# `make demo` and `make test` need Python >= 3.10 and the package index; each sets up what it needs, once.
PYTHON ?= python3
VENV ?= .venv
STAMP := $(VENV)/.ovdet-installed
RUN := $(VENV)/bin/python
QUICK := output/quick

# `make demo IMAGE=photo.jpg VOCABULARY="red kite, wheel"` asks for other names on another photo
IMAGE ?= $(QUICK)/data/images/000265.jpg
VOCABULARY ?= red square, red circle, green cross, blue star, yellow triangle

.PHONY: help .venv demo test test-slow lint clean

help:            ## this list
	@grep -E '^[.a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | sort | expand -t 16

.venv: $(STAMP)  ## create the environment with all that ovdet needs

# Where the chosen Python already imports detectron2, the environment builds on it and on the torch it was compiled for.
$(STAMP): setup.py .constraints.txt tools/install_detectron2.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: expected Python 3.10 or later, got " + sys.version.split()[0])'
	@if $(PYTHON) -c 'import detectron2' 2>/dev/null; then \
	    set -ex; test -x $(RUN) || $(PYTHON) -m venv --system-site-packages $(VENV); \
	    $(RUN) -m pip install -q -e '.[dev]'; \
	else \
	    set -ex; test -x $(RUN) || $(PYTHON) -m venv $(VENV); \
	    $(RUN) -m pip install -q -c .constraints.txt -e '.[dev]'; \
	fi
	$(RUN) tools/install_detectron2.py
	@touch $@

demo: $(QUICK)/vild/model_final.pth ## train the quick model for a minute or two, then draw what it finds
	$(RUN) tools/demo.py --input "$(IMAGE)" --vocabulary "$(VOCABULARY)" --threshold 0.4 --output output/demo

$(QUICK)/vild/model_final.pth: | $(STAMP)
	$(RUN) tools/train_net.py --config-file configs/quick/vild.py

test: $(STAMP)   ## the tests, under 5 minutes on two cores
	$(RUN) -m pytest

test-slow: $(STAMP) ## the longer tests too
	$(RUN) -m pytest -m "slow or not slow" --timeout=1800

lint: $(STAMP)   ## style and unused names
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:           ## remove the environment and what the commands wrote
	rm -rf $(VENV) output
