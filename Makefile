# Everything a person types: each target sets up what it needs first, and a second run finds it done.

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
JOBS ?= 3
EXAMPLES ?= 5000
ON_RABBITMQ4 := $(addprefix tests/system/test_,topology.py publisher.py client.py consumer.py partitions.py private_node.py \
	dramatiq_traps.py dramatiq_traps_in_consuming.py dramatiq_traps_in_messages.py supervisor.py \
	promise_1_commit_before_ack.py promise_4_order.py promise_7_outages.py)

# make demo BROKER=amqp://… MANAGEMENT=http://… KEEP=1; make test ARGS="-k lanes"
export BROKER MANAGEMENT KEEP

.DEFAULT_GOAL := help
.PHONY: help demo test check bench faults fuzz rabbitmq4 rabbitmq

help:  ## what can be typed here
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: BROKER=amqp://… MANAGEMENT=http://… KEEP=1 for demo, ARGS=… for all but check, EXAMPLES=5000 for fuzz"

demo: $(READY)  ## a plant day on a private RabbitMQ; BROKER and MANAGEMENT name another one, KEEP=1 leaves it running
	@$(PYTHON) -m tests.plant.demo $(ARGS)

# Tests mostly wait for real services: three processes, each with services of its own, keep two cores busy.
test: $(READY) rabbitmq  ## all tests, real RabbitMQ and real PostgreSQL included
	@$(PYTHON) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

check: $(READY)  ## format, lint, types, import rules and the tests that need no services
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@$(VENV)/bin/lint-imports
	@$(PYTHON) -m pytest -q tests/unit tests/properties

# Takes hours; `make bench ARGS="comparison --rounds 1"` is a part of it, ARGS="--quick" all of it with small sizes, in
# minutes. What was found stands in bench.json, too. PyPI's celery and faststream come with it.
bench: $(BENCH_READY) rabbitmq  ## measurements: the bus beside what could be taken instead, then what its cost grows with
	@$(PYTHON) -m tests.benchmarks --results bench.json $(ARGS)

# `make faults ARGS="--seed 7 -k relay"` is a part of it, and the same again. `make test` has a selection.
faults: $(READY) rabbitmq  ## every fault once: kills, outages and lies of broker, store and lines, at chosen moments
	@$(PYTHON) -m tests.faults --jobs $(JOBS) $(ARGS)

# `make fuzz EXAMPLES=100000 ARGS="-k envelope"` is a part of it, for longer. `make test` tries 100 of each.
fuzz: $(READY)  ## hostile documents, envelopes, settings and answers: EXAMPLES of each test
	@PLANTBUS_FUZZ=$(EXAMPLES) $(PYTHON) -m pytest -q --timeout 0 tests/security/test_fuzz_documents.py \
		tests/security/test_fuzz_edges.py $(ARGS)

# RabbitMQ 4 is taken from Debian 13's packages into the folder .rabbitmq4; nothing is installed.
rabbitmq4: $(READY)  ## the tests of topology, publisher, router, workers and outages, on RabbitMQ 4
	@.ci/rabbitmq4 .rabbitmq4
	@RABBITMQ_HOME=$(CURDIR)/.rabbitmq4/rabbitmq PATH="$(CURDIR)/.rabbitmq4/erlang:$$PATH" \
		$(PYTHON) -m pytest -n $(JOBS) --dist worksteal $(ON_RABBITMQ4) $(ARGS)

# Installed before the tests, so that no test's time limit pays for it. Where it cannot be had they say so themselves.
rabbitmq: $(READY)
	@test -n "$$PLANTBUS_TEST_BROKER" || $(PYTHON) -m bus.broker.installation || true

$(READY): pyproject.toml constraints.txt
	@.ci/venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(BENCH_READY): $(READY)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@
