# Build llama.cpp once, outside the Glia build trees, so that every tree (build, build-asan, …) shares it.
#
# Run as  cmake -DSRC=… -DBIN=… -DARGS=a|b|c -DTARGETS=llama|ggml -DKEY=… -DJOBS=… [-DALWAYS=ON] -P LlamaBuild.cmake
# Holds a lock on the folder, so two trees may be built at the same time.  KEY stands for source and options: while the
# stamp of the last whole build carries the same key nothing is done.  ALWAYS: ask the inner build tool every time (a
# checkout that somebody edits).
cmake_minimum_required(VERSION 3.25)
string(REPLACE "|" ";" ARGS "${ARGS}")
string(REPLACE "|" ";" TARGETS "${TARGETS}")

file(MAKE_DIRECTORY "${BIN}")
file(LOCK "${BIN}/.glia-lock" GUARD PROCESS TIMEOUT 7200)

set(stamp "${BIN}/.glia-stamp")
set(done "")
if(EXISTS "${stamp}")
    file(READ "${stamp}" done)
    string(STRIP "${done}" done)
endif()
if(done STREQUAL KEY AND NOT ALWAYS)
    return()
endif()

if(NOT done STREQUAL KEY)
    message(STATUS "llama.cpp: configuring in ${BIN}")
    file(REMOVE "${stamp}")
    execute_process(COMMAND "${CMAKE_COMMAND}" -S "${SRC}" -B "${BIN}" ${ARGS}
        OUTPUT_FILE "${BIN}/glia-configure.log" ERROR_FILE "${BIN}/glia-configure.log" RESULT_VARIABLE rc)
    if(NOT rc EQUAL 0)
        file(READ "${BIN}/glia-configure.log" log)
        message(FATAL_ERROR "llama.cpp: configure failed\n${log}")
    endif()
endif()

if(NOT ALWAYS)
    message(STATUS "llama.cpp: building once with ${JOBS} jobs (some minutes)")
endif()
execute_process(COMMAND "${CMAKE_COMMAND}" --build "${BIN}" --parallel ${JOBS} --target ${TARGETS} RESULT_VARIABLE rc)
if(NOT rc EQUAL 0)
    message(FATAL_ERROR "llama.cpp: build failed in ${BIN}")
endif()
file(WRITE "${stamp}" "${KEY}\n")
