# The two commands of the README, and the shorter ones they are made of.
#   make demo    set up, build, run a real small search on the CPU, report it
#   make test    set up, build, run all tests
# Variables: JOBS, PRESET (release, debug, ...), CUDA=ON or OFF: whether the CUDA
# kernels are built; by default where there is a GPU that could run them.

JOBS ?= $(shell nproc)
PRESET ?= release
CUDA ?= $(shell nvidia-smi -L > /dev/null 2>&1 && echo ON || echo OFF)
BUILD := build/$(PRESET)
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help setup configure build program test demo install format check \
  check_docs abuse clean

help:
	@sed -n '2,4p' Makefile | cut -c3-

setup:
	@scripts/setup.sh

configure: setup
	@cmake --preset $(PRESET) -DEINFORGE_CUDA=$(CUDA) $(CMAKE_ARGS) \
	  > $(VENV)/configure.log 2>&1 || { cat $(VENV)/configure.log; exit 1; }

build: configure
	@cmake --build $(BUILD) -j $(JOBS)

test: build
	@ctest --test-dir $(BUILD) -j $$(($(JOBS) + 1)) --output-on-failure

# The program alone, without the tests.
program: configure
	@cmake --build $(BUILD) -j $(JOBS) --target einforge

demo: program
	@$(BUILD)/bin/einforge data prepare examples/data --tokens chars96 \
	  --out runs/demo/data
	@$(BUILD)/bin/einforge search examples/configs/demo.toml --out runs/demo
	@echo "Open runs/demo/report.html in a browser."

install: build
	@cmake --install $(BUILD)

format:
	@scripts/check_format.sh --fix

# Every command block of the documentation that a CPU can run.
check_docs: program
	@scripts/check_docs.py $(BUILD)

# Closed streams, limits and damaged files of every kind.
abuse: program
	@scripts/abuse.py $(BUILD)/bin/einforge

check: configure
	@scripts/check_format.sh
	@scripts/check_includes.py
	@scripts/check_headers.py $(BUILD)

clean:
	rm -rf build
