# Trainyard. `make demo` shows it, `make test` proves it, `make` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A root environment without HOME (cron, chroot) still needs a place for Go's caches.
ifeq ($(HOME),)
export HOME := $(CURDIR)/.cache/home
endif
# No VCS stamp: equal sources give equal programs, and a checkout that another user owns builds too.
# The tag makes Arrow use the standard JSON: its own choice costs an eighth of a cold build, and we never call it.
TAGS := arrow_json_stdlib
export GOFLAGS := $(filter-out -buildvcs=% -tags=%,$(GOFLAGS)) -buildvcs=false -tags=$(TAGS)
# NVML's header deprecates functions that its Go binding still wraps: two hundred lines that nobody here can mend.
export CGO_CFLAGS ?= -O2 -g -Wno-deprecated-declarations
export PATH := $(CURDIR)/.cache/bin:$(PATH)

MODULES := proto libs services/scheduler services/gpu-agent services/trainer services/registry \
  services/checkpoint-janitor tools
PROGRAMS := $(dir $(wildcard services/*/cmd/*/main.go tools/cmd/*/main.go))
PYTHON := .cache/sdk/bin/python
need := @tools/dev/setup
# The real neighbours of tests that start them: see libs/pg/pgtest and libs/objectstore/s3test.
export TRAINYARD_VERSITYGW := $(CURDIR)/bin/versitygw
# Public traces and history, where a checkout has them beside it; without them the replays skip and say so.
export TRAINYARD_TRACES ?= $(abspath $(wildcard ../shared/traces))
# A test that skips because its server is missing tells nothing: here they are all installed.
test-units test-e2e: export TRAINYARD_TEST_REQUIRE := 1
# MLflow's own clients and server, which the registry is told stories by and mirrors to.
test-units: export TRAINYARD_TEST_MLFLOW_PYTHON := $(CURDIR)/.cache/bin/mlflow2-python:$(CURDIR)/.cache/bin/mlflow3-python
test-units: export TRAINYARD_TEST_MLFLOW_SERVER := $(CURDIR)/.cache/bin/mlflow2-python

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 28

# ---- run it ----------------------------------------------------------------------------------------------------------

.PHONY: setup
setup: ## install what building and running needs (Go and make are yours to install)
	$(need) go postgres

# No debug tables: a third of the linker's time. No -trimpath: the packages would be compiled once more for the tests.
BUILDFLAGS ?= -ldflags=-w

# Postgres and the S3 server's modules come from the network while the compiler has the processors; the linker skips what is
# up to date.
.PHONY: build
build: ## all programs, into bin/
	$(need) go
	@mkdir -p bin
	@tools/dev/setup postgres & postgres=$$!; \
	GOWORK=off go -C tools/versitygw list -deps . >/dev/null 2>&1 & \
	go build $(BUILDFLAGS) -o bin/ $(addprefix ./,$(PROGRAMS)); \
	$(MAKE) --no-print-directory bin/versitygw; \
	wait $$postgres

.PHONY: bin/versitygw
bin/versitygw:
	@GOWORK=off go -C tools/versitygw build $(BUILDFLAGS) -o ../../$@ .

.PHONY: images
images: ## static programs for the images of docker-compose.yml
	$(need) go
	@deploy/images/build

.PHONY: demo
demo: build ## train, register and promote three specialists on real market history, then stop
	@bin/trainyard demo

.PHONY: up
up: build ## start the whole mesh on this machine and leave it running (Ctrl-C stops it)
	@bin/trainyard up

# ---- prove it --------------------------------------------------------------------------------------------------------

.PHONY: test
test: test-units test-e2e ## every test: race detector, real Postgres, real S3, real processes

# First of all: what is compiled without cgo would have to be compiled again.
.PHONY: cgo
cgo:
	$(need) cgo

# Vet belongs to `make check`.
.PHONY: test-units
test-units: cgo build ## all but the end-to-end tests
	$(need) promtool mlflow
	go test -count=1 ./tools/archtest ./tools/deploytest
	go test -race -vet=off $(TESTFLAGS) work
	GOWORK=off go -C tools/versitygw test $(TESTFLAGS) ./...
	promtool test rules deploy/prometheus/tests/*.yaml

.PHONY: test-e2e
test-e2e: cgo build ## the whole mesh as processes, killed and watched
	go test -tags=e2e,$(TAGS) -count=1 -timeout=15m $(TESTFLAGS) ./tools/e2e/...

# One module: make bench ONLY=services/registry; one test of it: RESULTS=TestResultsIngest.
ONLY ?= $(MODULES)
RESULTS ?= ^TestResults
CAMPAIGN ?= ^TestCampaign
measured = go test -tags=results,$(TAGS) -count=1 -p=1 -v $(TESTFLAGS) $(addsuffix /...,$(addprefix ./,$(ONLY)))

# What is called durable is measured on a disk.
bench campaign: export TRAINYARD_TEST_PG_DIR ?= /var/tmp

.PHONY: bench
bench: cgo build ## measure everything beside its peers and write docs/results (about an hour; see CONTRIBUTING)
	$(measured) -timeout=90m -run='$(RESULTS)'

.PHONY: campaign
campaign: cgo build ## kill, freeze and cut power by the hundred, and write docs/results (hours)
	$(measured) -timeout=240m -run='$(CAMPAIGN)'

# ---- keep it ---------------------------------------------------------------------------------------------------------

.PHONY: check
check: check-contracts check-sdks check-modules lint check-rules vulnerabilities ## everything that needs no run: contracts, lint, module files

.PHONY: generate
generate: ## write the Go, Python and TypeScript SDKs from the contracts
	$(need) contracts
	buf generate

.PHONY: check-contracts
check-contracts: ## contracts are clean, break nobody, and the SDKs are what they generate
	$(need) git contracts
	buf lint
	buf format --diff --exit-code proto
	@tools/dev/breaking
	@tools/dev/gen-diff

.PHONY: check-sdks
check-sdks: ## the Python SDK imports and works, the TypeScript SDK compiles
	$(need) contracts
	@$(PYTHON) -B proto/gen/python/check.py
	@$(PYTHON) -B -m unittest discover --quiet -s proto/python/tests
	@tools/dev/check-ts

.PHONY: check-modules
check-modules: cgo ## formatted, every module tidy, and complete without the workspace
	$(need) go
	@files=$$(gofmt -l $(MODULES)); [ -z "$$files" ] || { echo "gofmt: $$files"; exit 1; }
	@for m in $(MODULES) tools/versitygw; do echo "tidy $$m"; GOWORK=off go -C $$m mod tidy -diff; done
	@tools/dev/same-versions $(MODULES)
	@for m in $(MODULES) tools/versitygw; do echo "build $$m alone"; GOWORK=off go -C $$m build -o /dev/null ./...; done

.PHONY: lint
lint: cgo ## golangci-lint over every module
	$(need) golangci
	golangci-lint run $(addsuffix /...,$(addprefix ./,$(MODULES)))

.PHONY: check-rules
check-rules: ## alert rules and scrape configuration parse
	$(need) promtool
	promtool check rules deploy/prometheus/rules/*.yaml
	promtool check config --syntax-only deploy/prometheus/prometheus.yaml

.PHONY: vulnerabilities
vulnerabilities: ## known vulnerabilities that our code reaches
	@tools/dev/vulnerabilities $(MODULES)

.PHONY: clean
clean: ## remove programs, tools and reports (a mesh's data under .trainyard stays)
	rm -rf bin .cache report.html
