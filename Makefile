# make         bin/uvm, bin/solo5-hvt, the programs that uvm starts (bin/uvm-image, -lupine, -net, -report, -top), and bin/uvm-exporter (docs/metrics.md)
# make guests  the sample unikernels, bin/guests/NAME.hvt
# make lupine  Linux kernels, bin/guests/*.vmlinux, and a table of their sizes (docs/lupine.md); 4 to 10 minutes each, once
# make test    everything that CI checks, but for what scripts/setup.sh installs
# make lab     the tests in the lab alone, each with its duration (docs/testing.md)
# make lab-shell  a shell in the lab
# make bench   the measurements of bench/README.md

GO         ?= go
# cmd/uvm/entry_amd64.s explains the entry point; a build without it works too, and starts slower.
UVMFLAGS   := -trimpath -buildvcs=false -ldflags "-s -w -buildid= -E _rt0_uvm"
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
FUZZTIME   ?= 5s
# Without KVM by intention there is no least number of KVM tests.
KVMMIN     := $(if $(filter 1,$(UVM_TEST_NO_KVM)),,-kvm-min .ci/kvm-tests)

# A pipe fails if any part of it does.
SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -c

.PHONY: all uvm guests lupine lab-kernels test check unit fuzz lab lab-shell bench clean

all: uvm

# The go command knows best what is out of date. Its linker writes through a mapping, page by page, and so the page cache
# keeps the file; written in one call it lies there in larger pieces, which a start maps with less work (docs/startup.md).
uvm:
	CGO_ENABLED=0 $(GO) build $(UVMFLAGS) -o bin/linked/uvm ./cmd/uvm
	dd if=bin/linked/uvm of=bin/uvm.new bs=64M status=none && chmod +x bin/uvm.new && mv -f bin/uvm.new bin/uvm
	ln -sf uvm bin/solo5-hvt
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o bin/ ./cmd/uvm-exporter ./cmd/uvm-image ./cmd/uvm-lupine ./cmd/uvm-net ./cmd/uvm-report ./cmd/uvm-top

guests:
	$(MAKE) -C guests

lupine:
	@$(MAKE) --no-print-directory -C guests/lupine

# The kernels that tests boot; built once, and kept in ~/.cache/uvm/lupine.
lab-kernels:
ifneq ($(UVM_TEST_NO_LAB),1)
	@guests/lupine/build.sh lupine-base lupine-general
endif

test: check unit fuzz

check:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not gofmt-ed: $$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# The race detector needs cgo; nothing else does.
unit: uvm guests lab-kernels
	CGO_ENABLED=1 $(GO) test -race -timeout 45m -json ./... | $(GO) run ./internal/testreport $(KVMMIN)

fuzz:
	GO="$(GO)" FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

lab: lab-kernels
	$(GO) test -count=1 -timeout 45m -v ./internal/lab/...

lab-shell:
	@$(GO) run ./internal/lab/shell

bench: uvm guests
	$(MAKE) -C bench

clean:
	rm -rf bin
