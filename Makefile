# The chores of Kiln. `make setup` is the only target that touches the machine (Debian packages); all
# others write to the working tree and the fixture cache ($KILN_FIXTURE_CACHE, else ~/.cache/kiln-fixtures).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# A disk of your own for `make demo`; the Debian disk, built on first use, when empty.
DISK ?=
.PHONY: help demo setup build fmt fmt-check lint test e2e torture ci bench guest-matrix fixtures fixtures-check \
	fuzz-smoke doc man

LOGS := target/ci
# Continuous integration names the binary that its tests have built; `cargo xtask` alone would compile half of all anew,
# with the features that the chores need and no others.
XTASK ?= cargo xtask

help: ## Show the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what tests and measurements need (Debian packages; root or sudo when one is missing)
	@bash crates/xtask/scripts/setup.sh

build: ## Build the release binary, target/release/kiln
	cargo build --release --locked --package kiln-cli

demo: ## Build kiln, then import, verify and list a real disk (DISK=FILE for one of your own)
	@bash crates/xtask/scripts/demo.sh $(DISK)

fmt: ## Format the source
	cargo fmt --all

fmt-check: ## Is the source formatted?
	cargo fmt --all --check

lint: ## Clippy on everything, warnings denied; scripts parse
	cargo clippy --workspace --all-targets --locked -- -D warnings
	for script in .ci/run crates/*/scripts/*.sh fixtures/recipes/*.sh; do bash -n "$$script"; done

# Tests that take minutes (a guest boots) carry #[ignore = "e2e: ..."] and are run by `make e2e`, two at a time: a guest
# of one virtual processor keeps one of this machine's busy.
test: ## Unit, law, corpus and oracle tests
	@mkdir -p $(LOGS)
	cargo test --workspace --locked --no-fail-fast 2>&1 | tee $(LOGS)/test.log

e2e: ## End-to-end tests: the Debian disk imported, exported, booted
	@mkdir -p $(LOGS)
	$(XTASK) fixtures
	cargo test --workspace --locked --no-fail-fast --test e2e -- --ignored --test-threads=2 2>&1 | tee $(LOGS)/e2e.log

torture: ## Faults at every I/O system call and every step of a capture, 50 captures of programs at work; prints the counts
	@mkdir -p $(LOGS)
	KILN_TORTURE=whole cargo test --workspace --locked --test e2e -- torture:: capture::faults capture::workload \
		--include-ignored --nocapture 2>&1 | tee $(LOGS)/torture.log

ci: ## Everything that must hold before a change lands
	@bash crates/xtask/scripts/ci.sh

guest-matrix: build fixtures ## Are the verdicts about guests true? Broken disks, asked about and started
	cargo xtask guest-matrix
	KILN_LAYOUTS=all cargo test --workspace --locked --test e2e guest::every_layout -- --ignored --nocapture

bench: build fixtures ## Measure against qemu-img and others; prints the README's table
	cargo xtask bench

fixtures: ## Regenerate the small committed fixtures; build the large ones into the cache when absent
	cargo xtask committed
	cargo xtask fixtures

fixtures-check: ## Do the recipes still make the committed fixtures, byte for byte?
	$(XTASK) committed --check

fuzz-smoke: ## Each fuzz target for 30 s (installs cargo-fuzz when absent)
	@bash crates/xtask/scripts/fuzz-smoke.sh

doc: ## API documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

man: ## Man pages and shell completions in target/man and target/completions
	cargo xtask man
