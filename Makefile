# A thin front of CMake.  `make help` explains; docs/BUILD.md has the long version.
SHELL := /bin/bash
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
BUILD ?= build
CMAKE_FLAGS ?=
TESTS ?=
ARGS ?=
FUZZ_SECONDS ?= 60
PREFIX ?= /usr/local
DEPS ?= .deps
MODEL ?= $(DEPS)/models/HuggingFaceTB/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf
export JOBS DEPS
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

# $(call configure,<folder>,<options>): configure once; CMake re-runs itself when its files change
configure = @if [ ! -f $(1)/CMakeCache.txt ] || [ -n "$(CMAKE_FLAGS)" ]; then \
	echo "configure: $(1) $(2) $(CMAKE_FLAGS)"; \
	cmake -S . -B $(1) $$(command -v ninja >/dev/null 2>&1 && [ ! -f $(1)/CMakeCache.txt ] && echo -G Ninja) \
	    $(if $(filter-out .deps,$(DEPS)),-DGLIA_DEPS_DIR=$(abspath $(DEPS))) $(2) $(CMAKE_FLAGS) >$(1).log 2>&1 || { cat $(1).log; rm -f $(1).log; exit 1; }; rm -f $(1).log; fi

.DEFAULT_GOAL := help
.PHONY: help all deps sdks smalltalk test-smalltalk build demo run test docs archs check check-asan unit asan tsan fuzz bench install tidy format clean distclean

help:
	@echo "Glia: local language models with open activations"
	@echo
	@echo "  make demo      build everything, ask the demo model something and show its activations"
	@echo "  make run       serve the demo model on 127.0.0.1 (ARGS='--port 8080' adds options)"
	@echo "  make build     build $(BUILD)/glia and libglia"
	@echo "  make test      all tests, then again under ASan + UBSan, those of threads under TSan; ends with the counts"
	@echo "  make check     all tests once, without sanitizers (TESTS=<regex> picks some)"
	@echo "  make test-smalltalk   clients/smalltalk in Squeak and GNU Smalltalk, fetched into $(DEPS)/smalltalk"
	@echo "  make asan      unit and API tests under AddressSanitizer + UBSan (build-asan/)"
	@echo "  make tsan      unit tests under ThreadSanitizer (build-tsan/)"
	@echo "  make fuzz      run every fuzzer for FUZZ_SECONDS=$(FUZZ_SECONDS) (build-fuzz/, installs clang)"
	@echo "  make archs     classify and prove every architecture llama.cpp can generate; writes docs/ARCHS.md"
	@echo "  make docs      docs/openapi.json and the tables of docs/HOOKS.md, as the program says them"
	@echo "  make bench     Glia against llama-server, capture against no capture; writes bench/RESULTS.md"
	@echo "  make install   to PREFIX=$(PREFIX) (DESTDIR is honoured)"
	@echo "  make deps      install and fetch what is missing into $(DEPS)/; the others call it"
	@echo "  make tidy      clang-tidy over src/        make format   clang-format over all C and C++"
	@echo "  make clean     remove the build folders     make distclean  and everything fetched"
	@echo
	@echo "Options go through CMAKE_FLAGS, e.g. make build CMAKE_FLAGS='-DGLIA_CUDA=ON'."
	@echo "  -DGLIA_CUDA=ON  -DGLIA_VULKAN=ON  -DGLIA_METAL=ON  -DGLIA_LLAMA_DIR=<llama.cpp checkout>"
	@echo "JOBS=$(JOBS) compilers run at once."

all: build

deps:
	@tools/deps.sh

sdks: deps
	@tools/sdks.sh

smalltalk: deps
	@tools/smalltalk.sh

build: deps
	$(call configure,$(BUILD),)
	@cmake --build $(BUILD) --parallel $(JOBS)

demo: build
	@$(BUILD)/glia demo --model $(MODEL) $(ARGS)

run: build
	@$(BUILD)/glia serve --model $(MODEL) $(ARGS)

test: deps
	@$(MAKE) --no-print-directory -j3 build sdks smalltalk
	@$(MAKE) --no-print-directory build-asan
	@$(MAKE) --no-print-directory build-tsan TSAN_TARGET=glia_thread_tests
	@tools/run_tests.sh $(BUILD) build-asan:"unit|api|fault|fuzz" build-tsan:threads

docs: build
	@$(BUILD)/glia openapi >docs/openapi.json
	@$(BUILD)/glia help hooks | python3 tools/hooks_page.py docs/HOOKS.md

archs: build
	@rm -rf $(BUILD)/archs && mkdir -p $(BUILD)/archs && $(BUILD)/llama_archs -o $(BUILD)/archs >/dev/null 2>&1
	@python3 tools/archs.py --glia $(BUILD)/glia --models $(BUILD)/archs --out docs/ARCHS.md
	@rm -rf $(BUILD)/archs

check: build sdks smalltalk
	@tools/run_tests.sh $(BUILD):"":"$(TESTS)"

test-smalltalk: build smalltalk
	@tools/run_tests.sh $(BUILD):"":"^e2e.smalltalk$$"

unit: build
	@tools/run_tests.sh $(BUILD):unit:"$(TESTS)"

.PHONY: build-asan build-tsan build-fuzz
build-asan: deps
	$(call configure,build-asan,-DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG=-O1 -DCMAKE_CXX_FLAGS_DEBUG=-O1 -DGLIA_SANITIZE=address$(comma)undefined)
	@cmake --build build-asan --parallel $(JOBS)

asan check-asan: build-asan sdks
	@tools/run_tests.sh build-asan:"unit|api|fault|fuzz":"$(TESTS)"

build-tsan: deps
	$(call configure,build-tsan,-DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG=-O1 -DCMAKE_CXX_FLAGS_DEBUG=-O1 -DGLIA_SANITIZE=thread)
	@cmake --build build-tsan --parallel $(JOBS) $(if $(TSAN_TARGET),--target $(TSAN_TARGET) glia_tiny)

tsan: build-tsan
	@tools/run_tests.sh build-tsan:"unit|fault":"$(TESTS)"

build-fuzz:
	@tools/deps.sh --with fuzz
	$(call configure,build-fuzz,-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DGLIA_FUZZ=ON)
	@cmake --build build-fuzz --parallel $(JOBS) --target glia_fuzzers

fuzz: build-fuzz
	@tools/fuzz.sh build-fuzz $(FUZZ_SECONDS)

bench: build
	@cmake --build $(BUILD) --parallel $(JOBS) --target glia_bench
	@python3 bench/bench.py --build $(BUILD) --deps $(DEPS) --model $(MODEL) --jobs $(JOBS) $(ARGS)

install: build
	@cmake --install $(BUILD) --prefix $(PREFIX)

tidy: build
	@tools/deps.sh --with lint
	@tools/lint.sh tidy $(BUILD)

format:
	@tools/deps.sh --with lint
	@tools/lint.sh format

clean:
	rm -rf build build-asan build-tsan build-fuzz

distclean: clean
	rm -rf $(DEPS)

comma := ,
