# Two commands do everything on a fresh machine:  make demo   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Small tensors run faster on one thread; parallelism comes from the test workers.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export MPLBACKEND = Agg
export SDL_VIDEODRIVER = dummy
export MUJOCO_GL ?= egl
# Cached bytecode makes every later start seconds faster.
unexport PYTHONDONTWRITEBYTECODE
WORKERS ?= 2
ARGS ?=

.PHONY: demo test test-slow lint docs bench clean setup

demo: $(STAMP)
	$(BIN)/lipctrl demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" $(ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright --project pyproject.toml

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks $(ARGS)

setup: $(STAMP)

# uv is many times faster than pip; pip remains as the fallback. Both honour pip's own find-links setting.
$(STAMP): pyproject.toml constraints.txt
	@rm -rf $(VENV)
	@if $(PYTHON) -c "import torch" 2>/dev/null; then \
	  $(PYTHON) -m venv --system-site-packages $(VENV) && \
	  $(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q uv && \
	  links="$$($(BIN)/python -m pip config get global.find-links 2>/dev/null || $(BIN)/python -m pip config get :env:.find-links 2>/dev/null || true)"; \
	  UV_FIND_LINKS="$$links" $(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[test]' || \
	  $(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'; \
	fi
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build dist site
