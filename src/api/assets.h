/* api/assets.h — files that requests name: lens translators, sparse autoencoders, directions.  Safetensors in one folder
 * (--assets DIR), by plain file name: a request cannot reach any other file.  Any thread. */
#ifndef GLIA_API_ASSETS_H
#define GLIA_API_ASSETS_H
#include "api/study.h"
#include "lab/lens.h"
#include "store/safetensors.h"

/* Open NAME or NAME.safetensors.  param is the field that named it.  EHOOK: the server has no such folder.  ENOTFOUND. */
glia_status glia_asset_open(const glia_app *app, const char *name, const char *param, glia_st **out, glia_err *err);

/* The values of a tensor of any float type as float: [n].  ENOTFOUND: no such tensor (*out NULL).  EINVAL: not n values, or
 * not floats.  Freed with glia_free. */
glia_status glia_asset_floats(const glia_st *s, const char *tensor, size_t n, float **out, glia_err *err);

/* The translators of "tuned": "NAME" in a study's body; layers NULL: it names none.
 * The file holds for i = 1 …: "i.weight" [n_embd, n_embd] and "i.bias" [n_embd], or the same behind "layer_translators.",
 * as the tuned-lens package names them: i applies to what enters block i, which is resid_post of layer i - 1.  The last
 * layer has none. */
typedef struct glia_tuned {
    glia_translator *layers; /* [n_layer] */
    size_t n_layer;
} glia_tuned;
glia_status glia_tuned_open(glia_tuned *t, const glia_study *s, glia_err *err);
void glia_tuned_close(glia_tuned *t);
#endif
