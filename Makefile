# `make help` lists what a person types. Everything runs without questions.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL := /bin/sh

include tools.mk

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
# The programs that exist under cmd/.
PROGRAMS := $(notdir $(patsubst %/,%,$(wildcard cmd/*/)))

# The race detector needs a C compiler. Without one the tests run without it.
RACE := $(if $(shell command -v gcc || command -v clang || command -v cc),-race)

# Minutes that `make soak` takes.
SOAK ?= 10

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' Makefile tools.mk | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

.PHONY: demo
demo: build $(ENVOY_STAMP) ## Show the main job on real parts: a weight shift under traffic
	go run ./test/demo

.PHONY: build
build: ## Build the programs into bin/, static, to be copied anywhere
	@umask 022; mkdir -p bin
	umask 022; CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(PROGRAMS:%=./cmd/%)

.PHONY: man
man: build ## Write the manual pages into build/man
	bin/evermesh man --out build/man
	bin/evermeshd man --out build/man
	bin/evermesh-agent man --out build/man

# The first stage is everything that runs in one process or in a few; much of it
# waits, so there are three packages at a time on two processors. The second
# runs whole meshes, one package at a time, because what it measures must not
# share two cores with a compiler.
.PHONY: test
test: tools build ## Run every test, with real etcd and real Envoy
	go run ./test/house test -out build/test.json -skips docs/skips.md \
		-stage 'go test -json -count=1 -p 3 $(RACE) -timeout 20m ./cmd/... ./internal/...' \
		-stage 'go test -json -count=1 -p 1 -timeout 20m ./test/...'

.PHONY: e2e-spire
e2e-spire: build $(ENVOY_STAMP) $(SPIRE_STAMP) ## Show certificates of a real SPIRE between two Envoys; builds SPIRE at first, for minutes
	go test -count=1 -v -timeout 10m -tags spire ./test/spire

.PHONY: check
check: $(GOLANGCI_LINT_STAMP) ## Check generated code, format and lint; fails on a difference
	go run ./internal/model/gen -check
	go mod tidy -diff
	$(TOOLS)/bin/golangci-lint fmt --diff
	$(TOOLS)/bin/golangci-lint run

.PHONY: format
format: $(GOLANGCI_LINT_STAMP) ## Format the code as `make check` wants it
	$(TOOLS)/bin/golangci-lint fmt

.PHONY: generate
generate: ## Write the generated code and references anew
	go run ./internal/model/gen
	go test ./internal -run Reference -update

.PHONY: golden
golden: tools ## Write the golden files anew; read the difference before you commit it
	go test ./internal/envoy/... ./internal/agent/... ./internal/intercept ./internal/cloudformation ./internal/manifest ./test/fields -update

.PHONY: bench
bench: build $(ENVOY_STAMP) ## Run the benchmarks and print them as a table
	go run ./test/bench

.PHONY: requirements
requirements: ## Show which requirements the last `make test` showed, per group (V=1: list the missing)
	@go run ./test/house requirements -results build/test.json -list docs/requirements.md $(if $(V),-v)

.PHONY: soak
soak: tools build ## Kill, look for leaks, fuzz, repeat and break code on purpose, for SOAK= minutes
	go run ./test/house soak -minutes $(SOAK)

.PHONY: clean
clean: ## Remove what was built; the tools stay
	rm -rf bin build/test.json
