# Two commands: `make demo` and `make test`. Both install into $(VENV) first, once.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= requirements/constraints.txt
DATA ?= data/cmr_phantom
CONFIG ?= configs/mask_rcnn_swin-nano_cmr.py
RUN ?= work_dirs/demo

BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: help demo test lint clean

help:
	@echo 'make demo   install, simulate data, train, test, draw; results in $(RUN)'
	@echo 'make test   install and run the test suite'
	@echo 'make lint   check style with ruff'
	@echo 'make clean  remove $(VENV), $(DATA) and $(RUN)'

$(INSTALLED): setup.py $(wildcard requirements/*.txt) swin_ext/mmcv_ext/_ext.py
	@echo '==> Installing into $(VENV)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python -c $(CONSTRAINTS) -e '.[tests]'
	@touch $@

$(DATA)/phantom.json: $(INSTALLED) tools/make_cmr_phantom.py
	@echo '==> Simulating cardiac MR into $(DATA)'
	$(BIN)/python tools/make_cmr_phantom.py --out $(DATA)
	@touch $@

$(RUN)/trained: $(DATA)/phantom.json
	@echo '==> Training $(CONFIG); logs and checkpoints in $(RUN)'
	rm -rf $(RUN)
	$(BIN)/mim train mmdet $(CONFIG) --work-dir $(RUN) --cfg-options data_root=$(DATA)
	@touch $@

$(RUN)/predictions.segm.json: $(RUN)/trained
	@echo '==> Testing the best checkpoint'
	$(BIN)/mim test mmdet $(CONFIG) --checkpoint $(RUN)/best_*.pth --work-dir $(RUN)/test \
	    --cfg-options data_root=$(DATA) test_evaluator.0.outfile_prefix=$(RUN)/predictions

$(RUN)/overlays.png: $(RUN)/predictions.segm.json
	$(BIN)/python tools/show_results.py --ann $(DATA)/val.json --img-prefix $(DATA)/images \
	    --pred $(RUN)/predictions.segm.json --out $@

$(RUN)/curves.png: $(RUN)/trained
	$(BIN)/python tools/plot_curves.py $(RUN) --out $@

demo: $(RUN)/overlays.png $(RUN)/curves.png
	@echo '==> Done. Look at $(RUN)/overlays.png and $(RUN)/curves.png'

# The models of the tests are too small for threads to pay.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/uv tool run ruff check .

clean:
	rm -rf $(VENV) $(DATA) $(RUN)
