/* api/scopes.c — what an API key may do: names of scopes.  Any thread. */
#include "api/app.h"
#include <string.h>

static const char *const scope_names[] = {
#define X(id, name, meaning) name,
    GLIA_SCOPE_MAP(X)
#undef X
};

uint32_t glia_scope_from_name(const char *name) {
    for (uint32_t i = 0; i < GLIA_N_SCOPES; i++) {
        if (!strcmp(name, scope_names[i])) return 1u << i;
    }
    return 0;
}

const char *glia_scope_name(uint32_t bit) {
    for (uint32_t i = 0; i < GLIA_N_SCOPES; i++) {
        if (bit == 1u << i) return scope_names[i];
    }
    return NULL;
}

const char *glia_scope_names(void) {
    return ""
#define X(id, name, meaning) name ", "
        GLIA_SCOPE_MAP(X)
#undef X
        "or several with commas";
}
