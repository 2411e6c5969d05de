# Trainyard: `make demo` shows it, `make test` proves it, `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

CACHE := .cache
TOOLS := $(CACHE)/bin

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

# ---- contracts -------------------------------------------------------------------------------------------------------

.PHONY: generate
generate: $(CACHE)/stamp/buf $(CACHE)/stamp/plugins ## SDKs from the contracts
	$(TOOLS)/buf generate

$(CACHE)/stamp/plugins: tools/dev/go.mod tools/dev/go.sum
	@mkdir -p $(TOOLS) $(@D)
	GOWORK=off go -C tools/dev build -o $(CURDIR)/$(TOOLS)/ \
	  google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	@touch $@

$(CACHE)/stamp/buf: tools/dev/requirements.txt
	@mkdir -p $(TOOLS) $(@D)
	python3 -m venv $(CACHE)/sdk
	$(CACHE)/sdk/bin/pip install --quiet --require-hashes --only-binary :all: -r $<
	ln -sf ../sdk/bin/buf $(TOOLS)/buf
	@touch $@
