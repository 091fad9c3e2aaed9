# The README's commands. `make verify` is what CI runs.

GO      ?= go
# What runs tests, and which: CI runs the tests that failed once more, and says so.
GOTEST   ?= $(GO) test
# What makes lab after lab is tried as a whole by test-labs, and by CI.
LABS      = $(addprefix github.com/etcdrill/etcdrill/,drivers/local lab/action lab/fault lab/recovery lab/vault)
PACKAGES ?= $(filter-out $(LABS),$(shell $(GO) list ./...))
# Functions on 16 bytes instead of 32: the binary is 1 % smaller.
LDFLAGS ?= -s -w -funcalign=16
export CGO_ENABLED ?= 0
# One way to compile all but what the race detector watches: once is enough.
export GOFLAGS := $(shell $(GO) env GOFLAGS) -trimpath

.PHONY: build test test-labs test-drills test-kills test-museum test-browser test-docker test-ssh test-vm test-s3 bench matrix lint verify generate clean

build: ## the static binary, bin/etcdrill
	$(GO) build -ldflags "$(LDFLAGS)" -o bin/etcdrill ./cmd/etcdrill

# The members of the tests' labs run from the binary that users run, not from
# the test binary, whose race detector would slow etcd down several times.
RACE = CGO_ENABLED=1 GORACE=atexit_sleep_ms=0 ETCDRILL_BINARY=$(CURDIR)/bin/etcdrill $(GOTEST) -race -timeout 15m -p 3 -parallel 4
test: build ## hermetic and quick: no Docker, no network, no root
	$(if $(PACKAGES),$(RACE) -short $(LABS))
	$(RACE) $(PACKAGES)

test-labs: build ## every verb, operation and state on labs of this machine
	$(RACE) $(LABS)

test-drills: ## every shipped drill, those that show damage too, and 50 killed runs
	ETCDRILL_DRILLS=all ETCDRILL_KILLS=50 $(GO) test -timeout 40m -parallel 4 ./cmd/etcdrill -run 'TestShippedDrills|TestKilledRunsLeaveNothing'

KILLED   ?= TestKilledOperations|TestKilledHosts
# How many labs side by side, and at which records a host dies: each, each second …
SIDE     ?= 8
HOSTS    ?= 1
test-kills: ## operations killed at every record of their journal, then resumed, then rolled back; takes long
	ETCDRILL_DRILLS=all ETCDRILL_KILLED_HOSTS=$(HOSTS) $(DRILLS) -timeout 60m -parallel $(SIDE) -run '$(KILLED)' $(COMMANDS)

test-museum: build ## stock etcd binaries: a known bug found, no false alarm without it; upgrades and downgrades
	fixtures/museum/test

test-browser: ## the report in a real browser, wide and narrow, light and dark, and on paper; needs chromium
	ETCDRILL_MUST=browser $(GO) test -timeout 10m ./reports

# The backends' tests: the driver's own, and drills by the command.
DRILLS   ?= $(GO) test
DRIVER   ?= ./drivers/$(@:test-%=%)
COMMANDS ?= ./cmd/etcdrill
MUST      = $(@:test-%=%)
BACKEND   = ETCDRILL_MUST=$(MUST) ETCDRILL_BINARY=$(CURDIR)/bin/etcdrill ETCDRILL_TEST_INVENTORY=$(INVENTORY)
MACHINES := $(CURDIR)/bin/machines
INVENTORY = $(MACHINES)/hosts.yaml

test-docker: build ## containers that play hosts; needs a container engine
	$(BACKEND) $(GOTEST) -timeout 30m $(DRIVER)
	$(BACKEND) $(DRILLS) -timeout 30m -run Elsewhere $(COMMANDS)

test-ssh: build ## machines over ssh: containers with an sshd, of the image that test-docker makes
	fixtures/node/machines down $(MACHINES)
	fixtures/node/machines up $(MACHINES) 4
	$(BACKEND) $(GOTEST) -timeout 30m $(DRIVER) && $(BACKEND) $(DRILLS) -timeout 30m -run Elsewhere $(COMMANDS); \
	code=$$?; fixtures/node/machines down $(MACHINES); exit $$code

# They are emulated where there is no KVM, so what is tried is what containers
# have not: a kernel with netem, a clock, a boot.
VMS := $(CURDIR)/bin/vms
test-vm: MUST = ssh,vm
test-vm: INVENTORY = $(VMS)/hosts.yaml
test-vm: build ## virtual machines under QEMU, and drills on them over ssh
	$(BACKEND) $(GO) test -timeout 30m ./fixtures/vm
	fixtures/vm/machines down $(VMS)
	fixtures/vm/machines up $(VMS) 3
	$(BACKEND) $(GO) test -timeout 30m -exec '$(CURDIR)/fixtures/vm/machines run $(VMS)' -run TestKernel ./drivers/kernel && \
	$(BACKEND) $(DRILLS) -timeout 60m -run '(SameDrill|HostsAreHosts|NetworkGone|ClockWhenKilled)Elsewhere' $(COMMANDS); \
	code=$$?; fixtures/vm/machines down $(VMS); exit $$code

# An S3 server, of the module proxy.
test-s3: ## stores of snapshots in an object store
	GOBIN=$(CURDIR)/bin $(GO) install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	CGO_ENABLED=1 ETCDRILL_MUST=s3 ETCDRILL_S3=$(CURDIR)/bin/versitygw $(GO) test -timeout 5m ./lab/snapshot -run TestS3

bench: build ## the benchmark tables; BENCH=docker,ssh chooses among local, docker and ssh
	$(GO) run ./cmd/bench -only "$(BENCH)"
	$(if $(BENCH),,CGO_ENABLED=0 $(GO) test ./lab/judge -run '^$$' -bench .)

# As many machines as the largest drill has members and spares.
matrix: build ## runs the drills on every driver there is, an hour or more, and prints the table; MATRIX="-readme README.md" writes it there
	-fixtures/node/machines down $(MACHINES)
	-fixtures/node/machines up $(MACHINES) 8
	$(GO) run ./cmd/matrix -inventory $(MACHINES)/hosts.yaml $(MATRIX); \
	code=$$?; fixtures/node/machines down $(MACHINES); exit $$code

generate: ## what is made from the code: catalogue, schema, plans
	$(GO) test ./cmd/etcdrill -run 'TestGenerated' -update

lint: build ## gofmt, vet, staticcheck, other systems, size, generated files
	@test $$(wc -c <bin/etcdrill) -lt 40000000 || { echo "bin/etcdrill: $$(wc -c <bin/etcdrill) bytes, expected less than 40 MB"; exit 1; }
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt: $$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	@if command -v golangci-lint >/dev/null; then golangci-lint run; fi
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/etcdrill
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/etcdrill
	$(GO) test ./cmd/etcdrill -run 'TestGenerated'

verify: ## what CI runs
	.ci/run

clean:
	rm -rf bin etcdrill-runs
