# Two commands: `make demo` and `make test`. Both install into $(VENV) first, once.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= requirements/constraints.txt
DATA ?= data/cmr_phantom
CONFIG ?= configs/mask_rcnn_swin-nano_cmr.py
RUN ?= work_dirs/demo
WORKERS ?= 2

BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

# $(call remove,FOLDER,MARK): remove a folder that this Makefile made, which its MARK tells, and which
# lies inside of this one: any of the variables above may be set to something else.
define remove
@real=$$(realpath -m -- "$(1)"); \
case "$$real" in \
    "$$(realpath .)"/?*) if [ -e "$$real/$(2)" ]; then echo "rm -rf $$real"; rm -rf -- "$$real"; fi ;; \
    *) echo "$(1) lies outside of this folder: not removed" ;; \
esac
endef

.PHONY: help demo test lint clean

help:
	@echo 'make demo   install, simulate data, train, test, draw; results in $(RUN)'
	@echo 'make test   install, lint and run the test suite on $(WORKERS) processes'
	@echo 'make lint   check style with ruff'
	@echo 'make clean  remove $(VENV), and $(DATA) and $(RUN) where they lie in this folder'

$(INSTALLED): setup.py $(wildcard requirements/*.txt) swin_ext/mmcv_ext/_ext.py
	@echo '==> Installing into $(VENV)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	# Compiled once here: with PYTHONDONTWRITEBYTECODE, each start would compile PyTorch and mmdet anew.
	$(BIN)/uv pip install --python $(BIN)/python -c $(CONSTRAINTS) --compile-bytecode -e '.[tests]'
	@touch $@

$(DATA)/phantom.json: $(INSTALLED) tools/make_cmr_phantom.py
	@echo '==> Simulating cardiac MR into $(DATA)'
	$(BIN)/python tools/make_cmr_phantom.py --out $(DATA)
	@touch $@

$(RUN)/trained: $(DATA)/phantom.json
	@echo '==> Training $(CONFIG); logs and checkpoints in $(RUN)'
	$(call remove,$(RUN),.demo)
	@mkdir -p $(RUN) && touch $(RUN)/.demo
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

# The models of the tests are too small for threads to pay; processes do.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

clean:
	$(call remove,$(VENV),pyvenv.cfg)
	$(call remove,$(DATA),phantom.json)
	$(call remove,$(RUN),.demo)
