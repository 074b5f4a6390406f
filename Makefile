# One command a job; CI runs the same ones. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

TOOLS := target/tools/bin
DENY  := target/tools/cargo/bin/cargo-deny
DENY_VERSION := 0.20.2

# mysqld and etcd from PATH come first; those that were unpacked stand in where there are none.
WITH_TOOLS := PATH="$$PWD/$(TOOLS):$$PATH"

.PHONY: help demo test tools lint deny bench build sim deb docs screenshots record-series measure-planned measure-emergency measure-failover measure-calm measure-rest measure-fleet measure-page measure-scrape measure-start

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-16s %s\n", $$1, $$2 }'

demo: tools ## a small live cluster: planned reparents every few seconds until Ctrl-C; TOUR=1: one round trip, checked
	cargo build
	$(WITH_TOOLS) target/debug/vtelector demo $(if $(TOUR),--tour)

test: tools ## every test, on real etcd and real mysqld
	$(WITH_TOOLS) cargo test --all-targets
	cargo test --doc
	$(WITH_TOOLS) cargo test --features otlp --test events traces

tools: ## mysqld and etcd below target/, where PATH has none
	deploy/tools/install

build: ## the release binary
	cargo build --release

sim: ## the simulation; SEED=n PAIR=FIRST,SECOND TESTS=module:: play one run again, SEEDS=n plays n seeds
	cargo test --test simulation -- $(TESTS)

record-series: ## the series of deploy/prometheus/tests, from electors in the simulation; STORY=name records one
	cargo test --test simulation -- --ignored --nocapture record_series

lint: ## formatting and clippy
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --features otlp --lib --bins --test events -- -D warnings

deny: $(DENY) ## banned crates, licences, sources
	$(DENY) check bans licenses sources

$(DENY):
	cargo install --quiet --locked --root target/tools/cargo --version $(DENY_VERSION) cargo-deny

bench: ## speed of the pure parts
	cargo bench

measure-planned: tools ## 100 planned reparents under writes: write gap and call time, p50 and p99
	$(WITH_TOOLS) cargo test --release --test planned -- --ignored --nocapture measure_planned

measure-emergency: tools ## primaries killed and frozen under writes, TIMES=50 times each: call, write gap, lost, errant
	$(WITH_TOOLS) cargo test --release --test emergency -- --ignored --nocapture measure_emergency

measure-failover: tools ## primaries killed, frozen, silent, full and without agent, TIMES=30 times each, and nobody calls: write gap, lost (needs root)
	$(WITH_TOOLS) cargo test --release --test failover --test silent --test electors -- --ignored --nocapture --test-threads 1 measure_failover

measure-calm: tools ## ten minutes in which the elector loses every fifth packet and hears up to 300 ms late: no failover (needs root)
	$(WITH_TOOLS) cargo test --release --test silent -- --ignored --nocapture measure_calm

measure-rest: tools ## the elector at rest with 10 tablets: memory and CPU
	$(WITH_TOOLS) cargo test --release --test planned -- --ignored --nocapture measure_rest

deb: ## a Debian package of the release binary, in target/debian
	cargo build --release
	deploy/deb/build target/release/vtelector target/debian

measure-start: tools ## size of the release binary, and time from its start until it answers
	cargo build --release
	$(WITH_TOOLS) PROGRAM="$$PWD/target/release/vtelector" cargo test --test ops -- --ignored --nocapture measure_start

measure-scrape: ## a scrape of 9,999 tablets: series, bytes, time
	cargo test --test ops -- --ignored --nocapture measure_scrape

docs: ## write the generated parts of docs/ anew
	WRITE_DOCS=1 cargo test --test ops --test api generated

measure-page: tools ## the page of 3,333 shards: time to make it, cost of 100 open pages; SCREENSHOTS=1 keeps one red shard among them
	ulimit -n "$$(ulimit -Hn)" && $(WITH_TOOLS) cargo test --release --test page -- --ignored --nocapture measure_page

screenshots: tools ## the page in its main states, below docs/screenshots
	SCREENSHOTS=1 $(WITH_TOOLS) cargo test --test page

measure-fleet: tools ## electors over a simulated fleet, FLEET_TABLETS=10000, watched by FLEET_ELECTORS=1: CPU, memory, age of evidence, primaries killed at once
	ulimit -n "$$(ulimit -Hn)" && $(WITH_TOOLS) cargo test --release --test fleet -- --ignored --nocapture measure_fleet
