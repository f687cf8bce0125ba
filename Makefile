# nodejoin. `make help` lists what there is. Needs Go, git and make; nothing else is required for any target.
GO ?= go
VERSION ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),v0.0.0-dev)
COMMIT ?= $(or $(shell git rev-parse --verify --quiet HEAD 2>/dev/null),unknown)
# The race detector needs a C compiler and its headers: `make test RACE=` does without, RACE=-race insists.
RACE ?= $(shell [ "$$($(GO) env CGO_ENABLED)" = 1 ] && \
	printf '\043include <pthread.h>\n' | $$($(GO) env CC) -fsyntax-only -x c - 2>/dev/null && echo -race)
PACKAGES ?= ./...
TESTFLAGS ?=
FUZZTIME ?= 30s
# What `make packages` makes, OS/ARCH and deb, rpm, archive, sbom, and where: everything, in dist.
PLATFORMS ?=
FORMATS ?= deb rpm archive sbom
DIST ?= dist
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
KEEP ?=
STRATEGY ?=

CLI := github.com/nodejoin/nodejoin/agent/cmd/cli
# No date and no path of this machine: the same commit gives the same bytes.
LDFLAGS = -s -w -X $(CLI).Version=$(VERSION) -X $(CLI).Commit=$(COMMIT)

# The nested modules that have code, each built as test/testbed builds them, so that Kubernetes is compiled once.
MODULES = $(shell find . -mindepth 2 -name go.mod -not -path '*/.*' | sed 's,/go.mod$$,,' | sort | \
	while read -r m; do [ -z "$$(find "$$m" -name '*.go' | head -n 1)" ] || echo "$$m"; done)
TESTED_MODULES = $(shell for m in $(MODULES); do [ -z "$$(find "$$m" -name '*_test.go' | head -n 1)" ] || echo "$$m"; done)
# Compiling Kubernetes takes gigabytes of temporary space, more than a /tmp in memory has.
BIGTMP := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nodejoin
# What is shipped; test/ is Linux's. Each system takes a minute or two when nothing is cached.
SHIPPED := ./agent/... ./bootstrap/... ./csr/... ./packaging/... ./rotate/... ./systemd/...
CROSS ?= windows/amd64 windows/arm64 darwin/amd64 darwin/arm64 freebsd/amd64 linux/amd64 linux/arm64 linux/arm linux/ppc64le linux/s390x linux/riscv64
define nested # modules, verb
$(foreach m,$(1),mkdir -p $(BIGTMP) && CGO_ENABLED=0 GOWORK=off GOTMPDIR=$(BIGTMP) $(GO) -C $(m) $(2) -trimpath -mod=readonly ./...
)
endef

export GO
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := build
.PHONY: build test demo bench packages packages-test machine-test lint cross fmt fuzz controlplane deps clean help

build: ## compile bin/nodejoin: static, stripped, reproducible (VERSION, COMMIT)
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/nodejoin ./agent/cmd/nodejoin

test: deps controlplane ## vet and test everything against a real control plane (PACKAGES, TESTFLAGS, RACE)
	$(call nested,$(TESTED_MODULES),vet)
	$(call nested,$(TESTED_MODULES),test)
	$(GO) vet $(RACE) ./...
	$(GO) test $(RACE) -timeout 20m $(TESTFLAGS) $(PACKAGES)

demo: deps controlplane ## join a node to a real control plane, step by step (KEEP=1 leaves it running, STRATEGY=oidc shows that way in)
	KEEP='$(KEEP)' STRATEGY='$(STRATEGY)' $(GO) run ./test/demo

bench: deps build controlplane ## measure joining and waiting against the reference
	$(GO) run ./test/bench

# The tool is compiled as the program is, so that each package is compiled once, in whatever directory the clone is.
packages: ## make dist: deb, rpm, archives, bill of materials, checksums (VERSION, PLATFORMS=linux/amd64, FORMATS=deb, DIST)
	CGO_ENABLED=0 $(GO) run -trimpath ./packaging/cmd/packages -version '$(VERSION)' -epoch '$(SOURCE_DATE_EPOCH)' -ldflags '$(LDFLAGS)' \
		-platforms '$(PLATFORMS)' -formats '$(FORMATS)' -out '$(DIST)'

packages-test: ## as root on Debian: packages built twice are equal, lint, install, upgrade, remove, and come from signed repositories
	packaging/check

machine-test: controlplane ## as root: boot Debian machines with the packages and cloud-init, and check them against a real control plane (SUITE=trixie: that release)
	$(GO) run ./test/machine $(if $(SUITE),-suite '$(SUITE)')

lint: ## golangci-lint over this module; go vet over the nested ones
	.ci/golangci-lint run ./...
	$(call nested,$(MODULES),vet)

cross: ## go vet of what is shipped, with its tests, as other systems compile it (CROSS=windows/arm64)
	@set -eu; for platform in $(CROSS); do \
		echo "go vet for $$platform"; \
		CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} $(GO) vet $(SHIPPED); \
	done

fmt: ## format every Go file (gofumpt, import groups)
	.ci/golangci-lint fmt

fuzz: ## run each fuzz target for a while (FUZZTIME=30s)
	@set -eu; packages=$$($(GO) list -f '{{.ImportPath}} {{.Dir}}' ./...); \
	echo "$$packages" | while read -r package dir; do \
		for target in $$(cat "$$dir"/*_test.go 2>/dev/null | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x "$$package" </dev/null || exit 1; \
		done; \
	done

controlplane: ## build the control plane that tests run against, once (the first time takes about ten minutes)
	$(GO) run ./test/testbed/cmd/build-controlplane

deps: ## install what tests and demo need where that is possible (NODEJOIN_NO_INSTALL=1: nothing)
	@.ci/deps

clean: ## remove what the other targets left in the tree; caches outside it stay
	rm -rf bin dist coverage coverage.* *.test *.out

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
