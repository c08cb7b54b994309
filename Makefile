# Every target sets up what it needs and may be repeated. Those that build labs need root: sudo make TARGET.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# NEWEST=1: not the versions of the lock files, but the newest that pyproject.toml allows, in their own .venv-newest.
NEWEST ?=
PREPARE := setup/prepare.sh$(if $(filter-out 0,$(NEWEST)), --newest)
VENV := .venv$(if $(filter-out 0,$(NEWEST)),-newest)
PYTHON := $(VENV)/bin/python
SCRIPTS := labctl .ci/run $(wildcard setup/*.sh tests/*.sh tests/*/*.sh bench/*/*.sh)
A ?= legacy
B ?= bpf
ARGS ?=
TESTS ?=
ONLY ?=
LABS ?= 50
FUZZ ?= -o bench/results/fuzz.json
KERNELS ?= 6.1 6.12
# Without those that take long, and what others import.
BENCHES ?= $(filter-out $(addprefix bench/,fabric.py load_rounds.py service_connections.py service_paths.py),$(wildcard bench/*.py))
DISTROS ?= bookworm trixie sid
STEPS ?= compare test
KEEP ?=
DEPTH ?= 1
# Integration tests run in this many hosts of their own at a time; in the machine's own where LABCTL_ALONE=1 compares
# every eBPF program of it.
WORLDS ?= $(if $(filter 1,$(LABCTL_ALONE)),0,$(shell cpus=$$(nproc); echo $$((cpus < 4 ? cpus : 4))))
IN_WORLDS = $(if $(filter-out 0,$(WORLDS)),--dist loadscope --tx '$(WORLDS)*popen//python=tests/world.sh $(PYTHON)')

.PHONY: help fuzz test-concurrency test-lessons setup setup-networks compare test test-kind test-machines test-networks test-thorough test-distros test-vm test-sample test-faults unit lint static style types security scripts audit objects format bench upgrade clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## install the packages that labs need, and .venv
	@setup/prepare.sh --root "make setup" run

setup-networks: ## install FRR and the CNI plugins too, for fabrics and pod networks that need them
	@setup/prepare.sh --root "make setup-networks" run networks

compare: ## build both labs, measure, print the table (A=legacy B=bpf ARGS="--rounds 20")
	@setup/prepare.sh --root "make compare" run
	@./labctl compare $(A) $(B) $(ARGS)

test: ## everything that CI runs: lint, types, eBPF objects, tests (TESTS="tests/unit -k ping"; NEWEST=1: without the lock)
	@$(PREPARE) --root "make test" run lint test networks
	@$(MAKE) -j 2 --output-sync=target $(STATIC) objects
ifeq ($(strip $(TESTS)),)
	$(PYTHON) -m pytest -n auto --dist loadscope tests/unit
	$(PYTHON) -m pytest $(IN_WORLDS) tests/integration
else
	$(PYTHON) -m pytest $(TESTS)
endif

test-kind: ## real Cilium on a real cluster, as docs/kind.md describes it; says what is missing where that cannot be
	@$(PREPARE) --root "make test-kind" run test
	@$(PYTHON) tests/kind_cluster/preflight.py
	LABCTL_TEST_KIND=1 $(PYTHON) -m pytest tests/kind_cluster -v

test-networks: ## every shipped network and fabric with all its checks and traces (about 5 minutes)
	@$(PREPARE) --root "make test-networks" run test networks
	LABCTL_TEST_NETWORKS=1 $(PYTHON) -m pytest tests/networks -v

test-machines: ## the provider kubeadm on three machines with a real Kubernetes 1.20.2, in containers of a docker daemon of their own
	@$(PREPARE) --root "make test-machines" run test machines
	LABCTL_TEST_MACHINES=1 $(PYTHON) -m pytest tests/machines -v -s

test-thorough: ## what make test has only a sample of: the same tests in every cell, and those that take minutes
	@$(PREPARE) --root "make test-thorough" run lint test networks
	LABCTL_THOROUGH=1 $(PYTHON) -m pytest $(IN_WORLDS) tests/integration -m thorough

test-distros: export TESTS := $(value TESTS)
test-distros: ## both README commands in fresh Debian systems, from nothing (DISTROS=sid STEPS=compare TESTS="…" NEWEST=1 KEEP=1)
	@setup/prepare.sh --root "make test-distros" distros
	@python3 tests/distros/distro_run.py $(if $(KEEP),--keep) $(if $(filter-out 0,$(NEWEST)),--newest) --steps "$(STEPS)" --tests="$$TESTS" $(DISTROS)

test-vm: ## labs on other kernels, in virtual machines (KERNELS="5.10 6.1 6.12 7.x"), see docs/kernels.md
	@$(PREPARE) --root "make test-vm" run lint test vm
	LABCTL_TEST_VM="$(KERNELS)" $(PYTHON) -m pytest tests/vm -v

test-sample: ## the same in short, on one kernel, six lessons and some faults, which the date chooses
	@$(PREPARE) --root "make test-sample" run lint test vm networks
	LABCTL_TEST_VM=sample $(PYTHON) -m pytest tests/vm -v
	$(PYTHON) -m labctl lesson test --all --sample
	$(PYTHON) tests/faults/fault_run.py --sample

test-concurrency: ## many labs at once with the same addresses, the same lab by several, other users (LABS="50")
	@$(PREPARE) --root "make test-concurrency" run test
	LABCTL_TEST_CONCURRENCY=$(LABS) tests/world.sh $(PYTHON) -m pytest tests/concurrency -v -s

fuzz: ## coverage-guided random input for all that reads what others wrote, 10 minutes each (FUZZ="--seconds 60 tools runs")
	@$(PREPARE) lint
	@$(PYTHON) -m pip install --quiet --require-hashes --no-deps --upgrade --target .tools/fuzz -r setup/requirements-fuzz.txt
	PYTHONPATH=src:.tools/fuzz $(PYTHON) tests/fuzz/fuzz.py $(FUZZ)

test-faults: export ONLY := $(value ONLY)
test-faults: ## a fault at every call by which a command changes the machine, then what is left (ONLY="up | mount": these; DEPTH=3: more of them)
	@$(PREPARE) --root "make test-faults" run test networks
	@$(PYTHON) tests/faults/fault_run.py --depth $(DEPTH) --only "$$ONLY"

test-lessons: ## every variant of every lesson with its author's solution, and what must not pass; as many at once as there are CPUs
	@$(PREPARE) --root "make test-lessons" run
	$(PYTHON) -m labctl lesson test --all

unit: ## the tests that need no root
	@$(PREPARE) lint
	$(PYTHON) -m pytest -n auto --dist loadscope tests/unit

lint: ## ruff, mypy, bandit and shellcheck; needs no root
	@$(PREPARE) lint
	@$(MAKE) static

# mypy takes one processor for a minute; the others fit beside it.
STATIC := types style security scripts
static:
	@$(MAKE) -j 2 --output-sync=target $(STATIC)

style:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

security:
	$(PYTHON) -m bandit --quiet --recursive --configfile pyproject.toml src setup playbooks

scripts:
	shellcheck $(SCRIPTS)

audit: ## asks for known vulnerabilities of the packages of the lock files; says so where no service can be reached
	@$(PREPARE) lint
	@$(PYTHON) setup/audit.py

objects:
	$(MAKE) -C src/labctl/datapath check
	$(MAKE) -C src/labctl/load check

format: ## let ruff rewrite the Python files
	@$(PREPARE) lint
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

bench: ## run the benchmarks of bench/ (BENCHES="bench/startup.py")
	@$(PREPARE) --root "make bench" run lint
	@set -e; for bench in $(BENCHES); do echo "== $$bench"; $(PYTHON) $$bench; done

upgrade: ## every package to the newest that pyproject.toml allows, in the lock files (ONLY="rich" moves it alone)
	@python=$$(setup/prepare.sh --python) && "$$python" setup/upgrade.py $(foreach name,$(ONLY),'$(name)')

clean: ## remove .venv and caches; runs/ stays, it holds measurements
	rm -rf .venv .venv-newest .mypy_cache .ruff_cache .pytest_cache build dist src/*.egg-info
	find src tests setup bench -name __pycache__ -type d -prune -exec rm -rf {} +
