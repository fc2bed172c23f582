/* lab/path.h — path patching: what one component tells another directly, through nothing but the residual stream.
 *
 * Wang et al. 2022, "Interpretability in the wild", appendix B; Goldowsky-Dill et al. 2023.  The sender takes its value from
 * the other run, everything behind it keeps that of the unchanged run (attention of later layers, and MLPs from the sender's
 * layer on, unless they are left free), so that only the direct path moves.  Receiver logits: their metric is the answer.
 * Receiver q, k or value of a head: what arrives there is captured, and put into an unchanged run; its metric is the answer.
 * Blocking; the caller's thread. */
#ifndef GLIA_LAB_PATH_H
#define GLIA_LAB_PATH_H
#include "lab/sweep.h"

typedef struct glia_path_receiver {
    glia_point point; /* Q, K, VALUE, MLP_IN, ATTN_IN or RESID_PRE */
    int32_t layer;
    int32_t head;     /* of that point (k, value: KV heads); -1: all of it */
} glia_path_receiver;

typedef struct glia_path_params {
    glia_sweep_params sweep; /* its grids are the senders: z by head; z, attn_out or mlp_out by layer; op: DENOISE or NOISE */
    const glia_path_receiver *to; /* [n_to] all at once; none: the logits */
    size_t n_to;
    bool free_mlps; /* MLPs on the way compute anew: paths through them count too */
} glia_path_params;

enum { GLIA_PATH_MAX_RECEIVERS = 64 };

/* A sender that lies not before every receiver has NAN.  Errors as of glia_sweep_run, and "path.to[i]". */
glia_status glia_path_run(glia_sweep **out, glia_model *m, const glia_path_params *p, glia_err *err);
#endif
