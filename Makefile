# `make help` lists the targets.

ENGINE ?= docker
IMAGE ?= yatagarasu

.PHONY: help setup demo store check-docs test checkers lint check-deploy soak bench budget compare transcript image check-image

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing to build; silent when nothing is
	@scripts/setup.sh

# One build for both, so that the program shares its dependencies with the tests.
demo: setup ## Start a store and the proxy, print lines to try; DEMO_ARGS=--check runs them
	cargo build --locked --bin yatagarasu --example demo
	cargo run --quiet --locked --example demo -- $(DEMO_ARGS)

store: setup ## Start the store alone, on port 9000
	cargo run --quiet --locked --example store

check-docs: setup ## Run the commands of README and docs/getting-started.md; compare output and quoted code
	@scripts/setup.sh python3 openssl
	cargo build --locked --bin yatagarasu --example store
	scripts/check-docs.py README.md docs/getting-started.md

# Tests that measure memory run alone.
test: setup ## Run all tests
	@scripts/setup.sh ansible-playbook || echo "the tests of deploy/ansible are skipped: no ansible-playbook"
	cargo test --locked --features faults -- --skip load::
	cargo test --locked --features faults --test it -- load::

checkers: setup ## Break a copy of the program on purpose and hold that the tests notice
	scripts/checkers.sh

lint: setup ## Check format, lints, documentation and dependencies
	@scripts/setup.sh cargo-deny
	cargo fmt --all --check
	cargo clippy --workspace --locked --all-targets --features faults -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
	cargo deny --locked check bans licenses sources
	@if timeout 60 cargo deny --locked fetch db >/dev/null 2>&1; then \
		set -x; cargo deny --locked check advisories; \
	else \
		echo "advisories are not checked: their database cannot be reached"; \
	fi

check-deploy: setup ## Check the systemd units, the alerts and the manifest with the programs they are for
	scripts/check-deploy.sh

soak: setup ## Reload 10,000 times under load and print what it cost; takes about eight minutes
	cargo bench --locked --bench reload_soak

bench: setup ## Time the pure core; BENCH_ARGS=authorize takes what has this in its name
	cargo bench --locked --bench core -- $(BENCH_ARGS)

budget: ## Hold instructions and allocations against benches/budget.txt; BUDGET_ARGS=--update writes it
	@scripts/setup.sh valgrind
	cargo bench --locked --bench budget -- $(BUDGET_ARGS)

compare: setup ## The whole proxy beside nginx, HAProxy and Envoy; COMPARE_ARGS='--short sizes', see benches/compare
	cargo build --locked --release --bin yatagarasu --example empty_proxy
	python3 benches/compare/compare.py $(COMPARE_ARGS)

transcript: setup ## Write the transcript in docs/CONFIG_RELOAD.md anew
	cargo build --locked --bin yatagarasu
	scripts/transcript.sh docs/CONFIG_RELOAD.md

image: ## Build the container image with ENGINE
	$(ENGINE) build --tag $(IMAGE) .

check-image: setup ## Run the Dockerfile's build here and its program as PID 1; BIN=path skips the build
	BIN=$(BIN) scripts/check-image.sh
