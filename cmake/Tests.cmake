# Tests: every tests/{unit,fault,golden}/**/test_*.c is a cmocka program linked with all of Glia but main(); every
# tests/{api,golden,e2e}/**/test_*.py runs under python3 (unittest) against the built program.
# tests/<folder>/**/*.c without the prefix test_ are helpers linked into every C test.
#
# Environment of every test:
#   GLIA_TEST_MODEL  SmolLM2-135M-Instruct Q4_1       GLIA_TINY_DIR    generated tiny models, one per architecture
#   GLIA_BIN         the built program                GLIA_SOURCE_DIR  root of the source tree
#   GLIA_SDK_DIR     clients of other APIs (tools/sdks.sh): python/, js/node_modules
#   GLIA_SMALLTALK_DIR   Squeak and GNU Smalltalk (tools/smalltalk.sh)
# OMP_WAIT_POLICY=passive: threads that spin at barriers take minutes when the machine has something else to do.
# Exit status 77 means skipped as a whole.  tools/run_tests.sh runs and counts them.
include(CTest)
find_package(Python3 3.9 REQUIRED COMPONENTS Interpreter)
pkg_check_modules(CMOCKA IMPORTED_TARGET cmocka)

set(GLIA_TEST_MODEL
    "${GLIA_DEPS_DIR}/models/HuggingFaceTB/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
    CACHE FILEPATH "model for the tests that need a real one")
set(GLIA_TINY_DIR "${CMAKE_BINARY_DIR}/tiny")
set(test_env "GLIA_TEST_MODEL=${GLIA_TEST_MODEL}" "GLIA_TINY_DIR=${GLIA_TINY_DIR}" "GLIA_BIN=${CMAKE_BINARY_DIR}/glia"
    "GLIA_SOURCE_DIR=${CMAKE_SOURCE_DIR}" "GLIA_SDK_DIR=${GLIA_DEPS_DIR}/sdk" "GLIA_SMALLTALK_DIR=${GLIA_DEPS_DIR}/smalltalk"
    "PYTHONDONTWRITEBYTECODE=1" "OMP_WAIT_POLICY=passive"
    "XDG_CACHE_HOME=${CMAKE_BINARY_DIR}/cache" ${GLIA_TEST_ENV})
file(MAKE_DIRECTORY "${CMAKE_BINARY_DIR}/cache")
set(slow 1)
if(GLIA_SANITIZE)
    set(slow 3)
endif()
math(EXPR unit_timeout "300 * ${slow}")
math(EXPR api_timeout "300 * ${slow}")

# -- tiny models, generated at build time when their generator changes
set(tiny_done "")
if(EXISTS "${CMAKE_SOURCE_DIR}/tools/tiny/mktiny.py")
    set(tiny_done "${GLIA_TINY_DIR}/.done")
    file(GLOB tiny_recipes CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tools/tiny/recipes/*.json")
    add_custom_command(OUTPUT "${tiny_done}"
        COMMAND "${Python3_EXECUTABLE}" "${CMAKE_SOURCE_DIR}/tools/tiny/mktiny.py" --all "${GLIA_TINY_DIR}"
        COMMAND "${CMAKE_COMMAND}" -E touch "${tiny_done}"
        DEPENDS "${CMAKE_SOURCE_DIR}/tools/tiny/mktiny.py" ${tiny_recipes} VERBATIM COMMENT "tiny test models")
    add_custom_target(glia_tiny ALL DEPENDS "${tiny_done}")
endif()

# what TSan is for: tests of more than one thread of ours (label threads, target glia_thread_tests)
set(threaded unit.http unit.engine unit.tasks unit.forward unit.memory unit.load unit.prefix unit.sweep unit.registry
    unit.staging unit.speculate unit.store)
add_custom_target(glia_thread_tests)

function(glia_test_properties name label timeout)
    if(name IN_LIST threaded)
        list(APPEND label threads)
        add_dependencies(glia_thread_tests test_${kind}_${stem})
    endif()
    set_tests_properties(${name} PROPERTIES LABELS "${label}" TIMEOUT ${timeout} SKIP_RETURN_CODE 77
        ENVIRONMENT "${test_env}" WORKING_DIRECTORY "${CMAKE_BINARY_DIR}")
endfunction()

# -- C tests
if(CMOCKA_FOUND AND TARGET libglia)
    set(support "")
    foreach(kind unit fault golden)
        file(GLOB_RECURSE found CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/${kind}/*.c")
        list(FILTER found EXCLUDE REGEX "/test_[^/]*\\.c$")
        list(APPEND support ${found})
    endforeach()
    add_library(glia_test_common INTERFACE)
    target_include_directories(glia_test_common INTERFACE "${CMAKE_SOURCE_DIR}/include" "${CMAKE_SOURCE_DIR}/src"
        "${CMAKE_SOURCE_DIR}/tests" "${CMAKE_SOURCE_DIR}/tests/unit")
    target_include_directories(glia_test_common SYSTEM INTERFACE ${llama_c} ${yyjson_dir})
    target_compile_definitions(glia_test_common INTERFACE _GNU_SOURCE=)
    target_compile_options(glia_test_common INTERFACE ${warnings})
    target_link_libraries(glia_test_common INTERFACE PkgConfig::CMOCKA ${app_libs})
    # everything but main() in one archive, so that a test links only what it uses
    add_library(glia_for_tests STATIC ${lib_objects} ${app_objects})
    set_target_properties(glia_for_tests PROPERTIES LINKER_LANGUAGE CXX)
    target_link_libraries(glia_for_tests PUBLIC glia_llama ${app_libs})
    if(support)
        add_library(glia_test_support OBJECT ${support})
        target_link_libraries(glia_test_support PRIVATE glia_test_common)
    endif()
    foreach(kind unit fault golden)
        file(GLOB_RECURSE found CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/${kind}/test_*.c")
        foreach(source IN LISTS found)
            get_filename_component(stem "${source}" NAME_WE)
            string(REGEX REPLACE "^test_" "" stem "${stem}")
            set(name "${kind}.${stem}")
            set(target "test_${kind}_${stem}")
            add_executable(${target} "${source}")
            if(support)
                target_sources(${target} PRIVATE $<TARGET_OBJECTS:glia_test_support>)
            endif()
            target_link_libraries(${target} PRIVATE glia_test_common glia_for_tests)
            set_target_properties(${target} PROPERTIES LINKER_LANGUAGE CXX
                RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
            add_test(NAME ${name} COMMAND ${target})
            glia_test_properties(${name} ${kind} ${unit_timeout})
        endforeach()
    endforeach()
elseif(NOT CMOCKA_FOUND)
    message(STATUS "glia: cmocka is missing, no C tests (run `make deps`)")
endif()

# -- tests from outside, over HTTP and the command line
if(TARGET glia)
    foreach(kind api golden e2e)
        file(GLOB_RECURSE found CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/${kind}/test_*.py")
        foreach(source IN LISTS found)
            get_filename_component(stem "${source}" NAME_WE)
            string(REGEX REPLACE "^test_" "" stem "${stem}")
            set(name "${kind}.${stem}")
            if(TEST ${name})
                set(name "${name}_py")
            endif()
            add_test(NAME ${name} COMMAND "${Python3_EXECUTABLE}" "${source}" -v)
            glia_test_properties(${name} ${kind} ${api_timeout})
            if(name STREQUAL "api.memory") # of the whole machine
                set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
            endif()
        endforeach()
    endforeach()
endif()

if(TEST e2e.mutation) # some forty programs are linked and run
    set_tests_properties(e2e.mutation PROPERTIES TIMEOUT 900)
endif()

# -- the longest first, so that none of them is left alone at the end
set(cost 20)
foreach(name unit.harvest unit.soak unit.grammar api.engine api.openapi e2e.archs api.load api.structured api.templates
        e2e.smalltalk api.tools e2e.mutation)
    if(TEST ${name})
        set_tests_properties(${name} PROPERTIES COST ${cost})
    endif()
    math(EXPR cost "${cost} + 1")
endforeach()

# -- llama.cpp's generator of tiny models of every architecture: its own test program, built from the fetched source
if(TARGET glia AND NOT GLIA_SANITIZE AND NOT GLIA_FUZZ AND EXISTS "${GLIA_LLAMA_SRC}/tests/test-llama-archs.cpp")
    add_executable(llama_archs "${GLIA_LLAMA_SRC}/tests/test-llama-archs.cpp")
    target_include_directories(llama_archs SYSTEM PRIVATE ${llama_cxx})
    target_compile_options(llama_archs PRIVATE -w)
    target_link_libraries(llama_archs PRIVATE glia_llama)
    set(archs_rows "")
    if(CMOCKA_FOUND)
        add_executable(archs_rows "${CMAKE_SOURCE_DIR}/tests/e2e/archs_rows.c" $<TARGET_OBJECTS:glia_test_support>)
        target_link_libraries(archs_rows PRIVATE glia_test_common glia_for_tests)
        set_target_properties(archs_rows PROPERTIES LINKER_LANGUAGE CXX RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
        set(archs_rows "$<TARGET_FILE:archs_rows>")
    endif()
    set_tests_properties(e2e.archs PROPERTIES
        ENVIRONMENT "${test_env};GLIA_LLAMA_ARCHS=$<TARGET_FILE:llama_archs>;GLIA_ARCHS_ROWS=${archs_rows}" TIMEOUT 900)
endif()

# -- fuzzers: tests/fuzz/fuzz_*.c (libFuzzer targets), corpus in tests/fuzz/corpus/<name>/.  With GLIA_FUZZ they are
#    built for `make fuzz`; always they replay their corpus as a test.
if(CMOCKA_FOUND AND TARGET libglia)
    file(GLOB found CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz_*.c")
    add_custom_target(glia_fuzzers)
    foreach(source IN LISTS found)
        get_filename_component(target "${source}" NAME_WE)
        string(REGEX REPLACE "^fuzz_" "" stem "${target}")
        if(GLIA_FUZZ)
            add_executable(${target} "${source}")
            target_link_options(${target} PRIVATE -fsanitize=fuzzer)
            add_dependencies(glia_fuzzers ${target})
        else()
            add_executable(${target} "${source}" "${CMAKE_SOURCE_DIR}/cmake/fuzz_replay.c")
            add_test(NAME fuzz.${stem} COMMAND ${target} "${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${stem}")
            glia_test_properties(fuzz.${stem} fuzz ${unit_timeout})
        endif()
        target_link_libraries(${target} PRIVATE glia_test_common glia_for_tests)
        set_target_properties(${target} PROPERTIES LINKER_LANGUAGE CXX
            RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/fuzz")
    endforeach()
endif()

# -- what `make install` installs: a stranger's program compiles, links and runs against it
if(TARGET glia AND NOT GLIA_SANITIZE AND NOT GLIA_FUZZ)
    add_test(NAME e2e.install COMMAND "${CMAKE_SOURCE_DIR}/tools/check_install.sh" "${CMAKE_BINARY_DIR}")
    glia_test_properties(e2e.install e2e 300)
endif()
