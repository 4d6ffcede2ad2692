# make setup | run | pictures | lab | page | test | test-browser | test-widgets7 | test-classroom | report | bench | speedrun | gpu; see README.md
PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard 0*.ipynb lab/*.ipynb))

.PHONY: setup run pictures lab page test test-browser test-widgets7 test-classroom report bench speedrun gpu clean
setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, %s was found: set PYTHON=..." % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable '.[notebooks,test]'
	touch $@

run: setup
	$(BIN)/python -m helpers run $(NOTEBOOK) $(if $(PROFILE),--profile $(PROFILE))

# The pictures of README and REPORT, which `make run` leaves alone.
pictures: setup
	PICTURES=imgs $(BIN)/python -m helpers run $(NOTEBOOK)

lab: setup
	$(BIN)/jupyter lab

# docs/index.html, one file in which networks draw in any browser; npm fetches the runtime that goes into it.
page: setup
	$(BIN)/pip install --quiet --constraint constraints.txt onnx
	$(BIN)/python -m helpers page

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ruff format --check --line-length 110 $(wildcard *.ipynb lab/*.ipynb)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal tests
	OMP_NUM_THREADS=1 PROFILE=smoke DATASET=digits $(BIN)/python -m pytest -q -n 2 --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout 300 \
	  --nbval-kernel-startup-timeout 120 --nbval-sanitize-with tests/sanitize.cfg $(NOTEBOOKS)

# Every slider in a real browser, and the page; as root on Debian it installs Chromium where there is none.
test-browser: setup
	$(BIN)/pip install --quiet --constraint constraints.txt playwright onnx
	@which chromium chromium-browser google-chrome >/dev/null || [ "$$(id -u)" != 0 ] || \
	  (apt-get update -qq && apt-get install -qq -y chromium >/dev/null) || echo "Chromium could not be installed"
	$(BIN)/python -m pytest -q -s tests/browser.py tests/browser_page.py

# The sliders with Colab's ipywidgets, in a folder of its own beside the newer one.
test-widgets7: setup
	$(BIN)/pip install --quiet --no-deps --upgrade --target .venv/widgets7 ipywidgets==7.7.1 widgetsnbextension==3.6.6 ipython_genutils==0.2.0
	PYTHONPATH=.venv/widgets7 $(BIN)/python -c 'import ipywidgets; assert ipywidgets.__version__ == "7.7.1"'
	OMP_NUM_THREADS=1 PYTHONPATH=.venv/widgets7 $(BIN)/python -m pytest -q -W ignore::DeprecationWarning tests/test_sliders.py

# Homework for nbgrader and Otter, held by these tools in an environment of their own.
test-classroom: setup
	$(BIN)/python -m venv .venv/classroom
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $$(echo .venv/classroom/lib/python3*/site-packages)/project.pth
	.venv/classroom/bin/pip install --quiet --constraint constraints.txt nbgrader otter-grader
	OMP_NUM_THREADS=1 .venv/classroom/bin/python -m pytest -q tests/test_classroom.py

report: setup
	$(BIN)/python -m helpers report

bench: setup
	$(BIN)/python tests/bench.py --keep

speedrun: setup
	$(BIN)/python -m helpers speedrun

# A GPU, in at most 8 minutes: every model, a resumed run, the times of the full profile, the notebooks.
gpu: setup
	$(BIN)/python tests/gpu.py

clean:
	rm -rf .venv runs
