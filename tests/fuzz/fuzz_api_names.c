/* Any string in each of the fields that name a point; floats of any bits as text. */
#include "api/encode.h"
#include "glia.h"
#include "tap/names.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { N_LAYER = 12 };

static void try_name(glia_hook_spec s, const char *arch) {
    glia_hook_target t;
    glia_err err = {0};
    glia_status st = glia_names_resolve(&s, N_LAYER, arch, &t, &err);
    if (st ? !err.message[0] : !t.n_points || t.layer < -1 || t.layer >= N_LAYER) abort();
    for (size_t i = 0; !st && i < t.n_points; i++) {
        if ((unsigned)t.point[i] >= GLIA_N_POINTS || (glia_point_has_layer(t.point[i]) && t.layer < 0)) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const archs[] = {NULL, "llama", "gemma2", "gemma3", "olmo2"};
    if (size < 2 || size > 4096) return 0;
    char *s = malloc(size);
    if (!s) return 0;
    memcpy(s, data + 1, size - 1);
    s[size - 1] = 0;
    char *second = memchr(s, '|', size - 1); /* one field, or two with a bar between */
    if (second) *second++ = 0;
    const char *arch = archs[data[0] % 5];
    bool input = data[0] & 0x80, output = data[0] & 0x40;
    try_name((glia_hook_spec){.name = s, .component = second, .input = input, .output = output}, arch);
    try_name((glia_hook_spec){.layer_name = s, .component = second, .input = input, .output = output}, arch);
    try_name((glia_hook_spec){.layer_text = s, .component = second, .input = input, .output = output}, arch);
    try_name((glia_hook_spec){.has_layer = true, .layer = -3, .component = s, .input = input, .output = output}, arch);
    for (size_t i = 0; i + sizeof(float) <= size; i += sizeof(float)) {
        char text[GLIA_FLOAT_CHARS];
        float x, back;
        memcpy(&x, data + i, sizeof x);
        size_t n = glia_float_text(x, text);
        back = isfinite(x) ? strtof(text, NULL) : x;
        if (n >= sizeof text || memcmp(&x, &back, sizeof x)) abort();
    }
    free(s);
    return 0;
}
