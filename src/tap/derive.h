/* tap/derive.h — rows of points that no graph has, from rows of one it has and weights of the model file.
 *
 *   attn_head_out  z of one head times its slice of the output projection W_O: what the head adds to the residual stream
 *                  (before a post-norm, without W_O's bias); the sum over heads plus bias is attn_out
 *   lens_in        a layer's residual stream through the final norm: what the output matrix would read (logit lens)
 * Weights are dequantized to float32 and products summed in float32, whatever the graph does.
 * Engine thread only; knows ggml, not where weights come from. */
#ifndef GLIA_TAP_DERIVE_H
#define GLIA_TAP_DERIVE_H
#include "tap/atlas.h"

/* A weight as it lies in the file: [ne1, ne0] of any ggml type.  Borrowed. */
typedef struct glia_weight {
    const void *data; /* NULL: none */
    int32_t type;     /* enum ggml_type */
    int64_t ne0, ne1;
} glia_weight;

typedef struct glia_derive {
    glia_point point;
    glia_weight weight, bias; /* bias: of the norm only */
    glia_weight scale;        /* of the output projection: one factor, or one per channel of n_embd */
    float eps;                /* of the norm; centred: subtracts the mean */
    bool centred;
    int32_t n_embd, head_dim; /* head_dim: of z */
} glia_derive;

typedef struct glia_deriver glia_deriver; /* buffers */
glia_deriver *glia_deriver_new(int32_t n_threads); /* NULL: out of memory */
void glia_deriver_free(glia_deriver *d);

/* in: [n_rows, n_embd], or [n_rows, n_heads, head_dim] of the listed heads (NULL: the first n_heads).
 * out: [n_rows, n_embd], or [n_rows, n_heads, n_embd].  False: out of memory. */
bool glia_derive_rows(glia_deriver *d, const glia_derive *how, const float *in, int32_t n_rows, const int32_t *heads,
                      int32_t n_heads, float *out);
/* Can a weight of this type be read? */
bool glia_derive_reads(int32_t type);
#endif
