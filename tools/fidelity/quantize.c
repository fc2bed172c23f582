/* tools/fidelity/quantize.c — a GGUF file with every matrix in one type, by llama.cpp's own quantizer.
 *
 *     glia_quantize IN.gguf OUT.gguf F32|F16|Q8_0|Q4_K
 *
 * Norms and biases stay F32, as in every quantized model.  A file that is quantized already is quantized again, which is
 * exact only to F32 and F16.  For docs/FIDELITY.md (make_page.py) and the peers of bench/. */
#include "llama.h"
#include <stdio.h>
#include <string.h>

static void on_log(enum ggml_log_level level, const char *text, void *ud) {
    (void)ud;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        enum llama_ftype type;
    } types[] = {{"F32", LLAMA_FTYPE_ALL_F32}, {"F16", LLAMA_FTYPE_MOSTLY_F16}, {"Q8_0", LLAMA_FTYPE_MOSTLY_Q8_0}, {"Q4_K", LLAMA_FTYPE_MOSTLY_Q4_K_S}};
    struct llama_model_quantize_params p = llama_model_quantize_default_params();
    size_t i = 0, n = sizeof types / sizeof *types;
    while (argc == 4 && i < n && strcmp(types[i].name, argv[3]) != 0) i++;
    if (argc != 4 || i == n) {
        fputs("usage: glia_quantize IN.gguf OUT.gguf F32|F16|Q8_0|Q4_K\n", stderr);
        return 2;
    }
    llama_log_set(on_log, NULL);
    p.ftype = types[i].type;
    p.pure = true; /* no better type for some matrices */
    p.allow_requantize = true;
    p.nthread = 2;
    return llama_model_quantize(argv[1], argv[2], &p) ? 1 : 0;
}
