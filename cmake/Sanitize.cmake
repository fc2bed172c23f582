# Flags for all of Glia's own code.  llama.cpp is built apart (Llama.cmake) and never sees them.
set(GLIA_SANITIZE "" CACHE STRING "sanitizers: empty, address,undefined, or thread")
set_property(CACHE GLIA_SANITIZE PROPERTY STRINGS "" "address,undefined" "thread")
option(GLIA_FUZZ "build the fuzzers (needs clang)" OFF)

if(GLIA_FUZZ)
    if(NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
        message(FATAL_ERROR "GLIA_FUZZ needs clang: CC=clang CXX=clang++ cmake …")
    endif()
    if(NOT GLIA_SANITIZE)
        set(GLIA_SANITIZE "address,undefined")
    endif()
    add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(GLIA_SANITIZE)
    add_compile_options(-fsanitize=${GLIA_SANITIZE} -fno-omit-frame-pointer -g1)
    add_link_options(-fsanitize=${GLIA_SANITIZE})
    if(GLIA_SANITIZE MATCHES "undefined")
        add_compile_options(-fno-sanitize-recover=undefined)
        add_link_options(-fno-sanitize-recover=undefined)
    endif()
endif()

# Environment of every test of a sanitized build.
#   detect_container_overflow  a std::vector grown inside llama.cpp (not instrumented) looks overflown from our bridge
#   OMP_THREAD_LIMIT           TSan cannot see libgomp's own synchronisation; with one thread there is none to see (ggml
#                              asks for its number of threads itself, which OMP_NUM_THREADS would not change)
set(GLIA_TEST_ENV "")
if(GLIA_SANITIZE MATCHES "address")
    set(leaks 1)
    if(APPLE) # has no leak checker
        set(leaks 0)
    endif()
    list(APPEND GLIA_TEST_ENV
        "ASAN_OPTIONS=abort_on_error=0:exitcode=99:detect_leaks=${leaks}:detect_container_overflow=0:detect_stack_use_after_return=1:strict_string_checks=1"
        "LSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/cmake/lsan.supp:print_suppressions=0"
        "UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1")
endif()
if(GLIA_SANITIZE MATCHES "thread")
    list(APPEND GLIA_TEST_ENV
        "TSAN_OPTIONS=halt_on_error=0:exitcode=99:second_deadlock_stack=1:history_size=4:suppressions=${CMAKE_SOURCE_DIR}/cmake/tsan.supp"
        "OMP_THREAD_LIMIT=1")
endif()
