/* base/cpu.h — what this processor can beyond what every build may use.  Any thread.  Knows nothing above base. */
#ifndef GLIA_BASE_CPU_H
#define GLIA_BASE_CPU_H
#include <stdbool.h>

#if defined(__x86_64__)
static inline bool glia_cpu_avx2(void) { return __builtin_cpu_supports("avx2"); }
static inline bool glia_cpu_f16c(void) { return __builtin_cpu_supports("f16c") && __builtin_cpu_supports("avx"); }
#else
static inline bool glia_cpu_avx2(void) { return false; }
static inline bool glia_cpu_f16c(void) { return false; }
#endif
#endif
