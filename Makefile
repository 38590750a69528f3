# What is done with Holdfast's sources. `make help` lists the targets; go, git, make and bash are all they need.
# `make race` needs a C compiler too, because Go's race detector does.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GO        ?= go
MODULE    := github.com/holdfast-edge/holdfast
BIN       := bin
LINTER    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# A build depends on its commit alone, not on who builds it, where or when: two clean clones give the same bytes. The time
# that agents take as the earliest one to believe is the commit's.
VERSION    ?= $(shell git describe --tags --always --dirty --abbrev=12 2>/dev/null || echo dev)
BUILD_TIME ?= $(shell TZ=UTC0 git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null)
LDFLAGS    := -s -w -X $(MODULE)/internal/daemon.version=$(VERSION) -X $(MODULE)/internal/daemon.buildTime=$(BUILD_TIME)
BUILD      := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'

# Go asks git about a checkout and fails where git refuses to answer, as it does for a directory of another user.
export GOFLAGS := $(strip $(GOFLAGS) -buildvcs=false)

# What runs in plants: agents and gateways. The core is for servers, and the store under its Raft log does not compile for
# riscv64; that the gateway does shows that no part of it crept in.
TARGETS   := linux-amd64 linux-arm64 linux-armv7 linux-riscv64
AGENT_MAX := 12582912  # bytes, 12 MiB: the amd64 agent; flash and links of small devices are paid by the byte

PKGS          ?= ./...
TEST_TIMEOUT  ?= 15m
TEST_FLAGS    ?=
RACE_SKIP     ?= /(sim/procs|sim/bench|internal/floor.*)$$
FUZZTIME      ?= 30s
DEMO_ARGS     ?=
BENCH_ARGS    ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: host cross sizes ## programs for this machine, and agents and gateways for the targets; prints sizes

.PHONY: host
host: ## programs for this machine alone, in bin/
	@mkdir -p $(BIN)
	$(BUILD) -o $(BIN)/ ./cmd/...

.PHONY: cross $(TARGETS)
cross: $(TARGETS)
linux-amd64:   export GOARCH = amd64
linux-arm64:   export GOARCH = arm64
linux-armv7:   export GOARCH = arm
linux-armv7:   export GOARM  = 7
linux-riscv64: export GOARCH = riscv64
$(TARGETS): export GOOS = linux
$(TARGETS):
	@mkdir -p $(BIN)/$@
	$(BUILD) -o $(BIN)/$@/ ./cmd/holdfast-agent ./cmd/holdfast-gateway

.PHONY: sizes
sizes: cross
	@printf '\n%-18s %-14s %10s %7s\n' program target bytes MiB
	@for p in holdfast-agent holdfast-gateway; do for t in $(TARGETS); do \
		b=$$(wc -c < $(BIN)/$$t/$$p); \
		awk -v p=$$p -v t=$$t -v b=$$b 'BEGIN { printf "%-18s %-14s %10d %7.2f\n", p, t, b, b / 1048576 }'; \
	done; done
	@b=$$(wc -c < $(BIN)/linux-amd64/holdfast-agent); max=$(AGENT_MAX); \
	if (( b > max )); then echo "the agent for linux-amd64 has $$b bytes; the limit is $$max" >&2; exit 1; fi

.PHONY: vet
vet:
	$(GO) vet $(PKGS)

# The tests of real processes start the programs in bin/. They mostly wait, so more of them run at once than there are cores.
.PHONY: test
test: host vet ## vet and all tests
	$(GO) test -shuffle=on -parallel 4 -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) $(PKGS)

# Not again the tests of real processes: the programs that they start are not built with the race detector, so it would watch
# the tests alone. Nor what measures: it is no part of the product. `make nightly` has all of them under it.
.PHONY: race
race: ## the tests under the race detector
	CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) \
		$$($(GO) list $(PKGS) | grep -Ev '$(RACE_SKIP)')

.PHONY: lint
lint: ## gofmt and golangci-lint
	@out=$$(gofmt -l */); \
	if [ -n "$$out" ]; then printf 'gofmt would change:\n%s\n' "$$out" >&2; exit 1; fi
	$(GO) run $(LINTER) run --allow-parallel-runners

# The list goes through a file, so that a package whose tests do not compile fails the target.
.PHONY: fuzz
fuzz: ## each fuzz test for FUZZTIME (30s)
	@mkdir -p $(BIN); $(GO) test -list '^Fuzz' $(PKGS) > $(BIN)/fuzz.list
	@awk '/^Fuzz/ { t[n++] = $$1 } /^ok/ { for (i = 0; i < n; i++) print t[i], $$2; n = 0 }' $(BIN)/fuzz.list > $(BIN)/fuzz.targets
	@[ -s $(BIN)/fuzz.targets ] || { echo 'no fuzz test was found' >&2; exit 1; }
	@while read -r test pkg; do \
		echo "fuzz $$test in $$pkg for $(FUZZTIME)"; \
		$(GO) test -run '^$$' -fuzz "^$$test\$$" -fuzztime $(FUZZTIME) $$pkg < /dev/null; \
	done < $(BIN)/fuzz.targets

.PHONY: demo
demo: host ## a fleet on this machine; DEMO_ARGS=--once runs through a story with checks and ends
	$(BIN)/holdfast demo $(DEMO_ARGS)

.PHONY: bench
bench: host ## measure (BENCH_ARGS are passed on)
	$(GO) run ./sim/bench $(BENCH_ARGS)

.PHONY: check
check: ## what the continuous integration runs
	.ci/run

.PHONY: nightly
nightly: ## what takes too long for every push: long fuzzing, every test many times
	$(MAKE) build test lint
	$(MAKE) race TEST_FLAGS=-count=10 TEST_TIMEOUT=120m
	$(MAKE) host race PKGS='./sim/procs ./sim/bench ./internal/floor/...' RACE_SKIP='^$$' TEST_TIMEOUT=60m
	HOLDFAST_CUTS=200 $(GO) test -run '^Test(Gateway|Agent)?PowerCut' -timeout 2h ./sim/procs
	HOLDFAST_KILLS=all $(GO) test -run '^Test(Gateway|Agent)KilledAtSystemCalls$$' -timeout 2h ./sim/procs
	HOLDFAST_KILLS=all $(GO) test -run '^TestCrashes$$' ./agent/reconcile
	HOLDFAST_CROWD=10000 $(GO) test -run '^TestCrowdComesBack' -timeout 30m ./sim/procs
	HOLDFAST_DAYS=14 HOLDFAST_DEVICES=1000 $(GO) test -run '^TestDaysWithoutTheCore' -timeout 2h ./sim
	HOLDFAST_HOURS=24 $(GO) test -run '^TestLongCut$$' -timeout 1h ./sim
	HOLDFAST_SEEDS=100 $(GO) test -run '^TestPowerCutAnywhere$$' -timeout 2h ./agent/install
	HOLDFAST_STAGE_MIB=1024 $(GO) test -run '^TestStageMemory$$' -timeout 30m ./agent/install
	HOLDFAST_SEEDS=5000 $(GO) test -run '^TestLinearizable' -timeout 12h ./sim
	HOLDFAST_SEEDS=5000 $(GO) test -run '^TestConservation$$' -timeout 12h ./sim
	HOLDFAST_SEEDS=200000 $(GO) test -run '^TestConservationLight$$' -timeout 4h ./sim
	for i in {1..20}; do $(MAKE) demo DEMO_ARGS=--once; done
	$(MAKE) fuzz FUZZTIME=5m

.PHONY: clean
clean: ## remove bin/
	rm -rf $(BIN)
