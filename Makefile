# `make` alone lists the targets. Every target makes the environment first when it is missing or stale.
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# One line, beside the packages of the lock: `import policy_client` means the one of this checkout.
READY := $(VENV)/lib/python3.11/site-packages/checkout.pth
SITE := .site
DEPLOY := .deploy
RAY := .ray
export TF_USE_LEGACY_KERAS := 1

.PHONY: help setup demo serve test test-fast coverage test-full test-trainers test-packages test-deploy test-ray check fmt lock docs docs-operations site bench bench-peers bench-checkpoint bench-swap bench-sessions bench-frames bench-stations bench-experience bench-shadow bench-fleet attack clients axe pictures

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(READY)  ## create .venv from the lock

# It says what it is at, package by package, but for the long list of hashes.
# --no-deps: the lock is complete, and pip's resolver cannot follow its overrides (docs/decisions/0002).
$(VENV)/.installed: requirements.lock
	@echo "Making $(VENV) from requirements.lock: $$(grep -c '^[a-z]' requirements.lock) packages, 2.8 GB of disk, about a minute on a quiet machine."
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@touch $@

$(READY): $(VENV)/.installed
	@echo "$(CURDIR)/client" > $@

demo: $(READY)  ## an agent learns CartPole through the server, its weights swapped in as it learns
	$(BIN)/python -m demo

serve: $(READY)  ## serve policies: make serve POLICIES="name=folder …"
	$(BIN)/python -m app serve $(POLICIES)

# Three at a time on two cores: a third of the time tests wait, for a lease that ends or a process that stops. A file
# stays together, for what its tests share, and so do those that share exports or a server; long ones come first
# (tests/conftest.py).
test: $(READY)  ## all tests, every scenario with small counts
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# tests/support/fast.py says what is in it, by what tests import.
test-fast: $(READY)  ## what needs neither TensorFlow nor a server: under a minute
	$(BIN)/python -m pytest --fast -n 2 --dist loadfile

# The fast set, and all tests of the server's parts; the least that is to be covered is in pyproject.toml.
coverage: $(READY)  ## lines that the tests of the parts run, the processes of servers included; too few fail
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q --fast --ignore=tests/app -n 2 --dist loadfile
	$(BIN)/coverage run -m pytest -q -n 2 --dist loadfile tests/app
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-full: $(READY)  ## all tests with the full counts; prints figures
	$(BIN)/python -m pytest --full -rP

test-trainers: $(READY)  ## the saver with TensorFlow 2.15 in Python 3.9 to 3.11, in environments under .trainers
	$(BIN)/python -m tests.trainers.environments .trainers
	$(BIN)/python -m pytest tests/trainers --trainers .trainers

# Tests that need it make it too, where there is an index of packages: 350 MB, some ten seconds.
clients: $(READY)  ## the clients of other protocols that tests run, in an environment of their own under .clients
	$(BIN)/python -m tests.support.clients

# Tests that need it get it too, where there is npm: 0.7 MB.
axe: $(READY)  ## axe-core, with which tests look at the console's page, from npm, under .axe
	$(BIN)/python -m tests.support.axe

pictures: $(READY)  ## make docs/pictures/ anew: the console of a real server in Chromium; some two minutes
	$(BIN)/python -m tests.support.pictures docs/pictures

test-packages: $(READY)  ## the packages as users install them: every Python that is here, pip, uv and pipx; some ten minutes
	$(BIN)/python -m pytest tests/packages --packages --full

# Environments of their own, where nothing has to agree with TensorFlow.
$(DEPLOY)/.installed $(RAY)/.installed: .%/.installed: requirements-%.lock
	$(PYTHON) -m venv --clear .$*
	.$*/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes -r $<
	@touch $@

test-deploy: $(READY) $(DEPLOY)/.installed  ## the chart by Helm and Kubernetes' schemas, the compose file by Compose, HAProxy
	$(BIN)/python -m pytest tests/deploy tests/test_compose.py --ignore=tests/deploy/test_ray.py

test-ray: $(READY) $(RAY)/.installed  ## servers as actors of a Ray cluster of three nodes on this machine
	$(BIN)/python -m pytest tests/deploy/test_ray.py

check: $(READY)  ## style, types, import rules; writes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy app saver client/policy_client
	$(BIN)/lint-imports

bench: $(READY)  ## answers a second beside a bare echo and a naive server: some twenty minutes
	$(BIN)/python -m bench.serving $(OPTIONS)

bench-peers: $(READY)  ## the same beside other model servers, in environments of their own under .bench-peers
	$(BIN)/python -m bench.serving --peers .bench-peers --scenario one-row-1 one-row-32 rows-64 $(OPTIONS)

bench-checkpoint: $(READY)  ## save_checkpoint beside TF-Agents' own
	$(BIN)/python -m bench.save_checkpoint

bench-swap: $(READY)  ## how soon new weights answer, and latency while they are swapped: some ten minutes
	$(BIN)/python -m bench.swaps $(OPTIONS)

bench-sessions: $(READY)  ## what sessions cost, and the client: some two minutes
	$(BIN)/python -m bench.sessions $(OPTIONS)

bench-frames: $(READY)  ## how many environments are stepped at 60 frames a second while weights are swapped: some five minutes
	$(BIN)/python -m bench.frames $(OPTIONS)

bench-stations: $(READY)  ## what one request costs by station, from the socket to the engine and back: a minute
	$(BIN)/python -m bench.stations $(OPTIONS)

bench-experience: $(READY)  ## what keeping experience costs, and how fast a trainer reads it: some two minutes
	$(BIN)/python -m bench.experience $(OPTIONS)

bench-shadow: $(READY)  ## what a shadow costs those who are answered: three minutes
	$(BIN)/python -m bench.shadow $(OPTIONS)

bench-fleet: $(READY)  ## a fleet of three servers beside one, and three apart: new weights, and latency through HAProxy; some twenty minutes
	$(BIN)/python -m bench.fleet $(OPTIONS)

attack: $(READY)  ## hostile requests of every kind beside a neighbour: latency and memory; some five minutes
	$(BIN)/python -m bench.attack $(OPTIONS)

docs: $(READY)  ## make docs/reference/policies.md anew from exports of every kind of policy
	$(BIN)/python -m tests.zoo.table > $(VENV)/policies.md
	mv $(VENV)/policies.md docs/reference/policies.md

docs-operations: $(READY)  ## make docs/reference/operations.md anew from exports of single operations: some ten minutes
	$(BIN)/python -m tests.sweep.table > $(VENV)/operations.md
	mv $(VENV)/operations.md docs/reference/operations.md

# An environment of its own: 170 MB, some ten seconds, and nothing of it has to agree with TensorFlow.
$(SITE)/.installed: requirements-site.lock
	$(PYTHON) -m venv --clear $(SITE)
	$(SITE)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes -r requirements-site.lock
	@touch $@

site: $(SITE)/.installed  ## build the documentation as a web site in site/; a broken link or a page without a place fails
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict --quiet

fmt: $(READY)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(READY)  ## make the locks (requirements*.lock) anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --group demo --group dev --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet -o requirements.lock
	for group in site deploy ray; do $(BIN)/uv pip compile --group $$group --python-version 3.11 --universal --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet -o requirements-$$group.lock || exit 1; done
	$(BIN)/uv pip compile --group clients --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet -o requirements-clients.lock
