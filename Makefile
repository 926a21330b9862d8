# `make` alone lists the targets. Everything runs in .venv, which the targets make themselves.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help venv constraints brokers bench demo test soak docker-test coverage guarantees mutants lint format typecheck wheel clean

BIN := .venv/bin
# The first interpreter that is new enough; `make PYTHON=/path/to/python3.13 venv` chooses another.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
INSTALL := -c constraints.txt --no-build-isolation -e '.[all,bench,test]' --group dev

# The contract suite runs inside the same pytest as the unit tests, so that one closing line speaks for all. Each backend
# has a worker of its own (SQS, the slowest, mostly waits), and each file of unit tests runs in one worker.
# `make test PYTEST_ARGS='-x tests/test_packaging.py' CONTRACT= WORKERS=` runs less.
BACKENDS := memory,rabbitmq,kafka,sqs
SUITE := -p unimq_contract.plugin --unimq-backends $(BACKENDS)
CONTRACT := contract_tests $(SUITE)
PYTEST_ARGS := tests
WORKERS := -n 5
# Documents with a table of guarantees. `make guarantees BACKENDS=kafka` renews one column.
TABLES := README.md docs/guarantees.md

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: .venv/installed ## Make .venv with everything that tests and linters need

.venv/installed: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "unimq needs Python 3.11 or newer; none is on the PATH (PYTHON=... names another)." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv; } || { \
		echo "$(PYTHON) cannot make virtual environments; install its venv module (Debian: apt-get install python3-venv)." >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --upgrade pip hatchling editables
	$(BIN)/python -m pip install -q $(INSTALL)
	@touch $@

constraints: ## Pin the newest versions of everything that `make venv` installs
	rm -rf .venv/fresh && $(PYTHON) -m venv .venv/fresh
	: > constraints.txt
	.venv/fresh/bin/python -m pip install -q --disable-pip-version-check --upgrade pip hatchling editables
	.venv/fresh/bin/python -m pip install -q $(INSTALL)
	{ echo "# What \`make venv\` installs, pinned. Made by \`make constraints\`."; \
		.venv/fresh/bin/python -m pip freeze --all --exclude-editable --exclude setuptools; } > constraints.txt
	rm -rf .venv/fresh

brokers: venv ## Install what the real brokers and the SQS emulators need (Debian packages, jars)
	$(BIN)/python -m unimq_contract.brokers install

demo: venv ## Order processing on memory://, on URL=amqp://... or on BACKEND=rabbitmq|kafka|sqs
ifdef BACKEND
	$(BIN)/python -m unimq_contract.brokers install $(BACKEND)
	$(BIN)/unimq up $(BACKEND) -- $(SHELL) -c '$(BIN)/python examples/order_processing.py --url "$$UNIMQ_URL"'
else ifdef URL
	@$(BIN)/python examples/order_processing.py --url '$(URL)'
else
	$(BIN)/python examples/order_processing.py --url memory://
	@printf '\nThe same program, unchanged, on a real broker that is started for it:\n'
	@printf '  make demo BACKEND=%s\n' rabbitmq kafka sqs
	@printf 'or on one that runs already:\n'
	@printf '  make demo URL=%s\n' 'amqp://user:password@host:5672/' 'kafka://host:9092'
endif

test: venv brokers lint ## Everything that .ci/run runs: linters, unit tests, the contract suite on every backend
	$(BIN)/python -m pytest $(WORKERS) $(PYTEST_ARGS) $(CONTRACT)

# The long proofs, which `make test` leaves out: faults on clusters and storms with hundreds of thousands of messages;
# the contract on the second emulator of SQS, and over the fast path on both.
soak: venv brokers ## Faults under long loads, judged by their histories: minutes each, one at a time
	$(BIN)/python -m pytest -n 0 -m soak -o log_cli=true -o log_cli_level=INFO --timeout 1800 $(PYTEST_ARGS)
	$(BIN)/python -m pytest -n 0 contract_tests -p unimq_contract.plugin --unimq-backends sqs-elasticmq
	for flavour in ministack elasticmq; do $(BIN)/unimq up sqs --flavour $$flavour -- \
		$(SHELL) -c '$(BIN)/unimq verify "$$UNIMQ_URL&http=fast" -- -q' || exit 1; done

mutants: venv brokers ## Run each test of the contract on the deliberately broken brokers that it must fail on
	$(BIN)/python -m pytest -n 6 --tb=no -q -p unimq_contract.plugin -p unimq_contract.mutants --pyargs unimq_contract \
		--unimq-mutants all --unimq-backends $(BACKENDS) --unimq-stress 0.3

guarantees: venv brokers ## Run the contract suite and write what it finds into the tables of README.md and docs
	$(BIN)/python -m pytest $(WORKERS) contract_tests/unimq_contract $(SUITE) --unimq-report .venv/contract-report.json
	$(BIN)/python -m unimq_contract.tables --data docs/contract-results.json --report .venv/contract-report.json $(TABLES)

# The profile "standard" takes half an hour. `make bench BENCH='overhead --on memory' PROFILE=full` measures something else.
BENCH := all
PROFILE := standard
bench: venv brokers ## Measure brokers, raw clients and unimq: benchmark.json and benchmark.html
	$(BIN)/unimq bench $(BENCH) --profile $(PROFILE) --out benchmark.json --html benchmark.html

docker-test: venv brokers ## The tests of brokers in containers, with a private engine and images built here (root)
	tests/brokers/docker/run.sh

coverage: venv ## Unit tests with branch coverage
	$(BIN)/coverage run -m pytest tests
	$(BIN)/coverage report

lint: venv typecheck ## ruff, import rules, mypy strict, pyright strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache

typecheck: venv ## mypy strict, pyright strict, and every type that users of unimq see
	$(BIN)/mypy
	$(BIN)/pyright
	PATH="$(CURDIR)/$(BIN):$$PATH" pyright --verifytypes unimq --ignoreexternal

format: venv ## Format, and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: venv ## Build the sdist and, from it, the wheel into dist/
	rm -rf dist
	$(BIN)/python -m hatchling build -t sdist
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist dist/unimq-*.tar.gz

clean: ## Remove .venv, build results and tool caches
	rm -rf .venv dist .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
