# Everything a new Debian 12 machine with Go needs is installed by these targets.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
export GOFLAGS := -buildvcs=false

# The tests that load programs into the kernel, or look at every container of
# the machine, run one after the other: they would see each other's.
KERNEL := ./sensor ./internal/sensorproc ./cmd/contraband
# Those that need a real Kubernetes: test-cluster's.
CLUSTER := ./internal/testenv/testcluster ./internal/contain ./internal/local

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: build
build: ## bin/contraband
	@mkdir -p bin
	go build -trimpath -o bin/contraband ./cmd/contraband

.PHONY: image
image: ## bin/sensor-image, the sensor's container image (an OCI layout, amd64 and arm64)
	@rm -rf bin/sensor-image
	go run ./cmd/contraband-sensor/image --out bin/sensor-image

.PHONY: demo
demo: deps-container build ## one command: an added program in a real container, found, paged, frozen (root)
	@./bin/contraband demo $(DEMOFLAGS)

.PHONY: test
test: deps-container deps-browser deps-bpf ## all tests but those on a cluster and on other kernels; as root with the sensor's, on this one
	@if [ "$$(id -u)" != 0 ]; then
		echo "!! NOT ROOT: the tests of the sensor, of the demo and of the browser are NOT RUN."
		echo "!! They load BPF programs and run real containers: run \`make test\` as root."
	fi
	echo "Not run here: the Terraform module's life on a loopback server (make test-terraform), a cluster (make test-cluster), other kernels (make test-kernels)."
	go vet ./...
	go test -race $$(go list ./... | grep -v -e /sensor$$ -e /internal/sensorproc$$ -e /cmd/contraband$$ -e /internal/contain$$ -e /internal/local$$ -e /internal/testenv/testcluster$$)
	go test -count=1 -run 'TestReadingIsAConstantNumberOfOperations|TestFloodDoesNotDelayTheMalwaresPage|TestYear' ./internal/respond # whole; smaller with -race
	go test -race -p 1 -count=1 $(KERNEL)

.PHONY: generate
generate: deps-bpf ## rebuild the BPF objects from C
	go generate ./bpf

.PHONY: check-bpf
check-bpf: deps-bpf ## fail when the committed BPF objects are not those of the C files
	@before=$$(sha256sum bpf/exec_bpfel.o bpf/exec_bpfel.go)
	go generate ./bpf
	if [ "$$before" != "$$(sha256sum bpf/exec_bpfel.o bpf/exec_bpfel.go)" ]; then
		echo "the committed BPF objects are not those of the C files: commit what \`make generate\` made" >&2
		exit 1
	fi
	echo "the committed BPF objects are those of the C files"

.PHONY: test-kernels
test-kernels: deps-container deps-kernels ## the matrix of routes on this kernel and on others in an emulator (5 min, root)
	@bash sensor/kernels/run.sh $(KERNELFLAGS)

.PHONY: bench-pages
bench-pages: ## the table of faults between a case and the people it pages: 2,000 findings a row (10 min)
	go test -count=1 -v -timeout 40m -run TestNoPageIsLostAndNoCaseIsPagedTwice ./internal/notify/pager -args -pages 2000

.PHONY: test-faults
test-faults: ## the table of faults: each external write x each class of answer x once, an hour, a day of virtual time (30 s)
	@go test -count=1 -v -run 'TestFaults$$' ./internal/respond 2>/dev/null | sed -n 's/^FAULT  //p; /^--- FAIL/p'

.PHONY: bench-noise
bench-noise: deps-container ## the table of docs/noise.md: real software in real containers, and what people are paged about (10 min, root, network)
	@go test -run '^$$' -bench 'BenchmarkNoise$$' -benchtime 1x -timeout 30m ./internal/local -args $(NOISEFLAGS) 2>/dev/null | sed -n 's/^BENCH\t//p'

.PHONY: bench-sensor
bench-sensor: deps-container deps-kernels deps-peers ## what the sensor costs, beside nothing and beside peers (root)
	@go test -run '^$$' -bench 'BenchmarkSensor$$' -benchtime 1x -timeout 30m ./sensor 2>/dev/null | sed -n 's/^BENCH\t//p'
	BENCH=1 bash sensor/kernels/run.sh
	go test -run '^$$' -bench BenchmarkMemory -benchtime 1x ./internal/sensorproc 2>/dev/null | sed -n 's/^BENCH\t//p'

.PHONY: test-cluster
test-cluster: deps-container deps-kubernetes ## containment on a real API server, and end to end on a real node (2 min, root)
	@if [ "$$(id -u)" != 0 ]; then echo "!! NOT ROOT: the tests on a cluster are NOT RUN." >&2; exit 1; fi
	go test -race -count=1 -p 1 $(CLUSTER)

.PHONY: bench-contain
bench-contain: deps-kubernetes ## 200 pods contained at once, on a real API server (root)
	@go test -run '^$$' -bench BenchmarkContain -benchtime 1x ./internal/contain 2>/dev/null | sed -n 's/^BENCH\t//p'

.PHONY: test-terraform
test-terraform: deps-terraform ## the Terraform module: lint, tests, a whole life on a loopback server (8 min; from cold +12 to build the provider and OpenTofu)
	@bash terraform/test.sh

.PHONY: terraform-docs
terraform-docs: ## write the tables of the Terraform READMEs anew (needed after a change of variables or outputs)
	@lint=$$(bash tools/terraform/build.sh lint)
	for d in terraform terraform/modules/*/ terraform/examples/*/; do
		"$$lint/terraform-docs" markdown table --config=terraform/.terraform-docs.yml $$d
	done

.PHONY: test-upgrade
test-upgrade: deps-terraform ## an earlier module (FROM=REVISION), then this one over it, on the loopback server
	@bash terraform/test.sh --upgrade-from "$(FROM)"

.PHONY: bench-functions
bench-functions: ## the functions' package: size, start to first answer, memory
	@go test -run '^$$' -bench BenchmarkFunctions -benchtime 1x ./internal/bundle | sed -n 's/^BENCH\t//p'

.PHONY: simulate
simulate: ## ten thousand cases, each through a year of virtual time (half an hour; YEARFLAGS=-year.seed=N repeats one)
	go test -v -count=1 -run TestYear -timeout 2h ./internal/respond -args -year.cases=10000 $(YEARFLAGS)

.PHONY: fuzz
fuzz: ## every decoder, FUZZTIME each (default 10m)
	@for each in internal/finding:FuzzDecode internal/sensorapi:FuzzDetection internal/policy:FuzzParse internal/cases/casetext:FuzzLog \
		functions/interact:FuzzInteraction internal/verdict:FuzzVirusTotal internal/workflowlang:FuzzParse sensor:FuzzPodmanStorage \
		internal/notify/slack:FuzzEscapeIsInert internal/web/safetext:FuzzEscape; do
		echo "== $$each"
		go test -run '^$$' -fuzz "$${each#*:}\$$" -fuzztime "$${FUZZTIME:-10m}" "./$${each%:*}"
	done

# install PROGRAM PACKAGE... installs the packages unless the program is there.
define install
	if ! command -v $(1) >/dev/null; then
		echo "installing $(2): $(3)"
		if [ "$$(id -u)" != 0 ]; then echo "  needs root: apt-get install -y --no-install-recommends $(2)" >&2; exit 1; fi
		[ -n "$$(find /var/lib/apt/lists -name '*_Packages*' -mtime -1 2>/dev/null | head -1)" ] || apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(2) >/dev/null
	fi
endef

.PHONY: deps deps-terraform deps-kubernetes deps-container deps-browser deps-bpf deps-kernels deps-peers
deps: deps-container deps-browser deps-bpf deps-kernels deps-kubernetes deps-terraform ## install all that the targets need

deps-container:
	@$(call install,containerd,containerd runc,a real container runtime for the demo and the tests)
	$(call install,busybox,busybox-static,what the image of the demo is made of)

deps-browser:
	@$(call install,chromium,chromium,the browser that reads the casebook in a test)

deps-bpf:
	@$(call install,clang,clang llvm,compiles the BPF programs)
	[ -f /usr/include/bpf/bpf_helpers.h ] || { $(call install,libbpf-headers,libbpf-dev,the headers of the BPF programs)
	}

deps-kernels:
	@$(call install,qemu-system-x86_64,qemu-system-x86,runs other kernels)
	$(call install,cpio,cpio,packs what they boot)
	$(call install,xz,xz-utils,unpacks their modules)

deps-kubernetes:
	@$(call install,ip,iproute2,the network of the test node)
	$(call install,nft,nftables,plays the network policy engine on it)
	$(call install,/usr/lib/cni/ptp,containernetworking-plugins,the network of its pods)
	bash tools/kubernetes/build.sh

deps-terraform:
	@for tool in google opentofu lint; do bash tools/terraform/build.sh $$tool; done

deps-peers:
	@$(call install,bpftrace,bpftrace,a peer that the sensor is measured beside)
	$(call install,execsnoop,libbpf-tools,another)
	$(call install,auditctl,auditd,another)
