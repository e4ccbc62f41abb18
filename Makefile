# make install | quickstart | app | check | test | docs | clean
# Without a GPU, the smaller CPU build of torch: make install PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# (or, before it: .venv/bin/pip install --index-url https://download.pytorch.org/whl/cpu torch==2.13.0)

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT := runs/quickstart
# Options of the quickstart's data and learning, for example LEARN="--max-steps 50". Two of the drawn products lie at any angle.
DRAWN ?=
LEARN ?= --turns biscuit=free,brass_gear=free

.PHONY: install quickstart app check test docs clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[train,dev]"
	touch $@

quickstart: $(STAMP)  ## From nothing to a trained detector and its table, without network or GPU.
	$(BIN)/anople demo-data $(OUT)/data --overwrite $(DRAWN)
	$(BIN)/anople train $(OUT)/data --shots 4 --output $(OUT)/model --overwrite $(LEARN)
	$(BIN)/anople calibrate $(OUT)/model $(OUT)/data
	$(BIN)/anople evaluate $(OUT)/model $(OUT)/data --json $(OUT)/table.json
	$(BIN)/anople evaluate $(OUT)/model $(OUT)/data --route --json $(OUT)/table_routed.json --sheet $(OUT)/contact_sheet.png
	@echo "detector: $(OUT)/model"

app: $(STAMP)  ## The web app with drawn samples, in the browser: http://127.0.0.1:7860
	$(BIN)/anople app --open

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

docs: $(STAMP)  ## The documentation as a site in runs/site; links and API names are checked.
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build

clean:  ## What was trained or downloaded outside the quickstart stays.
	rm -rf $(VENV) $(OUT) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
