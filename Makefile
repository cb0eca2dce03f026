# image-builder: `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
GO ?= go
BIN := $(CURDIR)/bin
TOOL := $(GO) tool -modfile=tools.mod
# Without the race detector, all targets compile with the same settings, so that each module is
# compiled once. The race detector needs cgo: tools/test.sh enables it.
export CGO_ENABLED := 0

.PHONY: help
help: ## Print the list of targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install the Debian packages that the service and the tests need (as root)
	@tools/install-deps.sh

.PHONY: build
build: ## Compile bin/image-builder
	@echo "compiling image-builder (the first time takes some minutes, to download and compile all modules)"
	@$(GO) build -o $(BIN)/image-builder ./cmd/image-builder

$(BIN)/buildkitd: tools/buildkit/go.mod
	@echo "compiling buildkitd (once, about two minutes)"
	@cd tools/buildkit && $(GO) build -o $(BIN)/ github.com/moby/buildkit/cmd/buildkitd github.com/moby/buildkit/cmd/buildctl

.PHONY: buildkitd
buildkitd: $(BIN)/buildkitd ## Compile bin/buildkitd for `make run` and the tests

.PHONY: run
run: deps build buildkitd ## Start a registry, BuildKit and three nodes on loopback, and build an image (EXIT=1: exit after the builds)
	@$(BIN)/image-builder dev $(if $(EXIT),--exit) $(RUN_FLAGS)

# Packages whose tests run processes of the service, of BuildKit and of registries.
PROCESS_TESTS := ./scheduler/buildkit $(addprefix ./test/,cli cluster dockerfile gitpod logs node observability operator registry transcript upgrade)

.PHONY: test
test: deps buildkitd ## Run the unit tests and simulations with the race detector, then longer simulations without it, the tests of the structure of the source and `make check`
	@echo "compiling the tests (the first time takes some minutes)"
	$(GO) vet ./...
	@tools/test.sh -race -p 3 -timeout 20m $$($(GO) list ./... | grep -vxF "$$($(GO) list ./test $(PROCESS_TESTS))")
	$(GO) test ./test
	$(GO) test ./test/sim -timeout 20m -sim.runs 48
	@$(MAKE) --no-print-directory check

.PHONY: test-processes
test-processes: deps buildkitd ## Run the tests with real processes, BuildKit and registries, with the race detector
	@tools/test.sh -race -p 3 -timeout 20m $(PROCESS_TESTS)

.PHONY: test-dates
test-dates: deps buildkitd ## The tests of `make test` and `make test-processes`, without the race detector, with the clock moved by DAYS (-1 30 800); PACKAGES=./...
	@tools/test-dates.sh "$(or $(DAYS),-1 30 800)" $(or $(PACKAGES),./...)

.PHONY: check
check: ## Check the format (gofumpt), run staticcheck, and check that the generated code and strings.golden are current
	@out=$$($(TOOL) gofumpt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); [ -z "$$out" ] || { echo "not gofumpt-clean:"; echo "$$out"; exit 1; }
	$(TOOL) staticcheck ./...
	@$(MAKE) --no-print-directory generate-check
	$(GO) test ./test/transcript -run Test_Strings

.PHONY: generate
generate: ## Generate the Go code of proto/
	@tools/generate.sh .

.PHONY: generate-check
generate-check: ## Fail if the generated code does not match proto/
	@d=$$(mktemp -d) && trap 'rm -rf $$d' EXIT && tools/generate.sh $$d && \
	for f in $$(cd $$d && find . -name '*.pb.go'); do cmp $$d/$$f $$f || { echo "run 'make generate'"; exit 1; }; done

.PHONY: test-faults
test-faults: deps build buildkitd ## Run the fault tests: kill -9 of real processes, with a real registry
	@tools/test-faults.sh

.PHONY: chaos
chaos: deps buildkitd ## Inject faults into a cluster for DURATION (5m), by a random schedule, and check every response (SEED=, RATE=20, NODES=3, FAULTS=, PROFILE=ref)
	$(GO) test -tags faults -timeout 0 ./test/chaos -run Test_Chaos -v -chaos.duration $(or $(DURATION),5m) -chaos.rate $(or $(RATE),20) \
	  -chaos.nodes $(or $(NODES),3) $(if $(SEED),-chaos.seed $(SEED)) $(if $(FAULTS),-chaos.faults $(FAULTS)) $(if $(PROFILE),-chaos.profile $(PROFILE)) $(if $(SHRINK),-chaos.shrink $(SHRINK))

test/kubernetes/bin/kubectl: test/kubernetes/go.mod
	@echo "compiling Kubernetes (once, five to ten minutes)"
	@test/kubernetes/build.sh

$(BIN)/helm: tools/deploytest/go.mod
	cd tools/deploytest && $(GO) build -o $(BIN)/helm helm.sh/helm/v3/cmd/helm

test/kubernetes/bin/kwok:
	@echo "compiling kwok (once, two or three minutes)"
	@GOBIN=$(CURDIR)/test/kubernetes/bin CGO_ENABLED=0 $(GO) install sigs.k8s.io/kwok/cmd/kwok@v0.8.0

.PHONY: kubernetes-programs
kubernetes-programs: $(BIN)/helm test/kubernetes/bin/kubectl test/kubernetes/bin/kwok ## Compile the programs for test-kubernetes: Kubernetes, kwok, helm

.PHONY: test-kubernetes
test-kubernetes: $(BIN)/buildkitd kubernetes-programs ## Test the Kubernetes runtime with a real API server, real pods and hundreds of simulated pods, and install the chart with helm (as root)
	@tools/install-deps.sh kubernetes
	@tools/test-kubernetes.sh

.PHONY: test-deploy
test-deploy: deps ## Test the chart, manifests, alerts (a real fault fires each) and experiments of deploy/ (as root)
	cd tools/deploytest && $(GO) vet -tags faults ./... && ../test.sh -count 1 -tags faults -parallel 8 -timeout 15m ./...

.PHONY: test-web
test-web: deps ## Test the web page in a headless Chromium while nodes are killed
	@tools/install-deps.sh web
	cd tools/webtest && $(GO) vet -tags faults ./... && ../test.sh -count 1 -tags faults -timeout 10m ./...

.PHONY: soak
soak: deps buildkitd ## Long versions of tests whose short ones are part of CI, about three hours (docs/soak.md)
	@tools/soak.sh

.PHONY: fuzz
fuzz: ## Run each fuzz test (decoders, the redactor) for FUZZTIME (10s)
	@tools/fuzz.sh $(or $(FUZZTIME),10s)

.PHONY: bench
bench: deps build ## Run the benchmarks of docs/benchmarks.md
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: fmt
fmt: ## Format the code
	@$(TOOL) gofumpt -l -w $$(git ls-files '*.go' | grep -v '\.pb\.go$$')

.PHONY: clean
clean: ## Remove binaries and the data of `make run`
	rm -rf bin .run
