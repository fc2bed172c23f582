/* cli/load.c — loading a model with a progress line.  Main thread. */
#include "cli/cli.h"
#include <langinfo.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool cli_print_error(const glia_err *err) {
    fprintf(stderr, "glia: %s\n", err->message);
    return false;
}

bool cli_utf8(void) { return !strcasecmp(nl_langinfo(CODESET), "UTF-8"); }

typedef struct progress {
    bool shown;
    int percent;
} progress;

static bool on_progress(float fraction, void *ud) {
    progress *p = ud;
    int percent = (int)(fraction * 100);
    if (p->shown && percent != p->percent) fprintf(stderr, "\rglia: loading %3d %%", p->percent = percent);
    return !cli_stop_asked();
}

glia_model *cli_load(const cli_options *o, const char *path, glia_status *st) {
    glia_model_params p;
    glia_model *m;
    glia_err err;
    progress shown = {isatty(STDERR_FILENO) && !o->json, -1};
    cli_options_model(o, path, &p);
    p.on_progress = on_progress;
    p.progress_ud = &shown;
    *st = glia_model_open(&m, &p, &err);
    if (shown.shown) fputs("\r\033[K", stderr);
    if (*st && cli_stop_asked()) *st = GLIA_ECANCELLED;
    else if (*st) (void)cli_print_error(&err);
    return m;
}
