# make demo   the viewer on http://127.0.0.1:7860, in its own environment
# make test   all tests
# make load   many visitors at once, each answer compared with a lonely visitor's
# make bench  speed against references: a table, and benchmarks/results/*.json
# make space TO=../space   what a Hugging Face Space is pushed, see docs/hosting.md; HARDWARE=zerogpu
# make kill   kills training N times at random and compares what it ends with
# make fuzz   reads N files broken by chance, and prints what came of them
# make lock   requirements.lock anew from requirements.txt, by uv
# make check  lint, types and tests, as before a commit

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test bench load kill fuzz space lock check lint types clean

demo: $(VENV)/runtime
	$(BIN)/python app.py

# Two files of tests side by side, each on one core; `pytest` alone runs one after the other.
test: $(VENV)/development
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Such as: make bench ROWS="--only analysis --repeats 3"
bench: $(VENV)/benchmarks
	$(BIN)/python -m benchmarks $(ROWS)

space: $(VENV)/runtime
	$(BIN)/python -m cxrdemo space --to $(TO) --hardware $(or $(HARDWARE),cpu)

# Such as: make kill N=50
N ?= 50
kill: $(VENV)/development
	$(BIN)/python tests/kill.py --times $(N)

# Such as: make load CLIENTS=20 MINUTES=5
load: $(VENV)/development
	PYTHONPATH=. $(BIN)/python tests/load.py --clients $(or $(CLIENTS),20) --minutes $(or $(MINUTES),5)

# Such as: make fuzz N=10000
fuzz: $(VENV)/development
	PYTHONPATH=.:tests $(BIN)/python tests/fuzz/mutations.py --times $(N)

lock:
	uv pip compile requirements.txt --generate-hashes --universal --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url -o requirements.lock

check: lint types test

lint: $(VENV)/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/development
	$(BIN)/mypy

# A stamp per list of requirements: make installs again when a list changes.
$(VENV)/runtime: requirements.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/development: $(VENV)/runtime requirements-dev.txt training/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(VENV)/benchmarks: $(VENV)/runtime benchmarks/requirements.txt training/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
