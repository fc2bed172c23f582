/* api/hook_fields.h — what the two halves of reading activation_hooks, and of interventions, share (activations.c, reduce.c,
 * interventions.c).  Any thread. */
#ifndef GLIA_API_HOOK_FIELDS_H
#define GLIA_API_HOOK_FIELDS_H
#include "api/activations.h"
#include "tap/names.h"

/* p becomes a's, to be freed with it; NULL when p is, or when there is no room to remember it (then p is freed). */
void *glia_acts_own(glia_acts *a, void *p);

/* Every key of obj is one of list[n]; else EINVAL with the nearest ones. */
glia_status glia_known_fields(yyjson_val *obj, const char *path, const char *const *list, size_t n, glia_err *err);

/* A list of whole numbers from min to max, owned by a; a single one counts as a list of one. */
glia_status glia_parse_numbers(glia_acts *a, yyjson_val *v, const char *param, int64_t min, int64_t max, int64_t **out,
                               size_t *n_out, glia_err *err);

/* {"from": 3, "to": 10} or "3:10", `to` exclusive, either may be left out, negative ones count from the end.
 * *out is owned by a, and NULL when v is neither an object nor a string with a colon. */
glia_status glia_parse_range(glia_acts *a, yyjson_val *v, const char *param, const glia_range **out, glia_err *err);

/* Positions under key: a word, a range or a list of numbers; absent: every row of these phases. */
glia_status glia_parse_positions(glia_acts *a, yyjson_val *obj, const char *path, const char *key, uint32_t phases,
                                 glia_hook *h, glia_err *err);

/* The fields that say where: layer, layer_name, component, name; positions, heads, channels.  spec.input and spec.output
 * say which side of a module its name stands for; phases: the rows that no `positions` stand for. */
glia_status glia_parse_where(glia_acts *a, yyjson_val *obj, const char *path, uint32_t phases, int32_t n_layer,
                             const char *arch, glia_hook_spec *spec, glia_hook_target *target, glia_hook *rows,
                             glia_err *err);

/* -- reduce.c: fields of one hook; what is absent leaves *h as it is */
glia_status glia_parse_channels(glia_acts *a, yyjson_val *obj, const char *path, glia_hook *h, glia_err *err);
glia_status glia_parse_reduce(glia_acts *a, yyjson_val *obj, const char *path, glia_hook *h, glia_err *err);
#endif
