/* tap/points.c — the table of points and grades.  Pure data. */
#include "glia.h"
#include <string.h>

static const struct {
    const char *name, *meaning;
} points[GLIA_N_POINTS] = {
#define X(id, name, meaning) {name, meaning},
    GLIA_POINT_MAP(X)
#undef X
};

const char *glia_point_name(glia_point p) { return (unsigned)p < GLIA_N_POINTS ? points[p].name : "?"; }
const char *glia_point_meaning(glia_point p) { return (unsigned)p < GLIA_N_POINTS ? points[p].meaning : "?"; }

bool glia_point_has_layer(glia_point p) {
    return p != GLIA_POINT_EMBEDDINGS && p != GLIA_POINT_FINAL_NORM && p != GLIA_POINT_LM_HEAD;
}

bool glia_point_from_name(const char *name, glia_point *out) {
    for (int i = 0; name && i < GLIA_N_POINTS; i++) {
        if (!strcmp(points[i].name, name)) {
            *out = (glia_point)i;
            return true;
        }
    }
    return false;
}

const char *glia_grade_name(glia_grade g) {
    static const char *const names[] = {"absent", "ambiguous", "structural", "proven"};
    return (unsigned)g < 4 ? names[g] : "?";
}
