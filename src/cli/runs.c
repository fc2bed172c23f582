/* cli/runs.c — glia runs: what the store holds, and rows out of it.  Main thread; needs no server and no model. */
#include "api/handlers.h"
#include "api/json.h"
#include "api/slice.h"
#include "cli/cli.h"
#include "harvest/record.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct runs_options {
    const char *store, *out;
    int kind, format;
    int32_t limit;
    bool json;
    glia_slice_query q;
} runs_options;

enum { N_FLAGS = 12 };
static const char *const kinds[] = {"all", "request", "harvest", NULL};
static const char *const formats[] = {"npy", "raw", "list", "base64", NULL};

static size_t own_flags(runs_options *o, flag *t) {
    size_t n = 0;
    t[n++] = (flag){"--store", FLAG_TEXT, &o->store, "DIR", "the store (GLIA_STORE, or ~/.local/share/glia/runs)",
                    0,         0,         NULL};
    t[n++] = (flag){"--kind", FLAG_CHOICE, &o->kind, "KIND", "list: request or harvest alone", 0, 0, kinds};
    t[n++] = (flag){"--limit", FLAG_INT,  &o->limit, "N", "list: at most so many, the newest first (all)",
                    1,         INT32_MAX, NULL};
    t[n++] = (flag){"--out", FLAG_TEXT, &o->out, "FILE", "export: where to (standard output)", 0, 0, NULL};
    t[n++] = (flag){"--format", FLAG_CHOICE, &o->format, "FORMAT", "export: npy (default), raw, list or base64",
                    0,          0,           formats};
    t[n++] = (flag){"--rows", FLAG_TEXT, &o->q.rows, "LIST", "export: rows such as 0:10,-1 (all)", 0, 0, NULL};
    t[n++] = (flag){
        "--positions", FLAG_TEXT, &o->q.positions, "LIST", "export: rows at these positions of a request", 0, 0, NULL};
    t[n++] =
        (flag){"--document", FLAG_TEXT, &o->q.document, "N", "export: rows of this document of a harvest", 0, 0, NULL};
    t[n++] = (flag){"--offsets", FLAG_TEXT, &o->q.offsets, "LIST", "export: of these those of some of its tokens",
                    0,           0,         NULL};
    t[n++] = (flag){"--heads", FLAG_TEXT, &o->q.heads, "LIST", "export: some heads", 0, 0, NULL};
    t[n++] = (flag){"--channels", FLAG_TEXT, &o->q.channels, "LIST", "export: some numbers of a row", 0, 0, NULL};
    t[n++] = (flag){"--json", FLAG_SWITCH, &o->json, NULL, "output for machines", 0, 0, NULL};
    return n;
}

static int help(const flag *table, size_t n) {
    puts("glia runs — stored runs: requests with \"store\": true, and harvests\n\n"
         "  glia runs                          list them, the newest first\n"
         "  glia runs show ID                  tensors and files of one\n"
         "  glia runs export ID TENSOR [flags] rows of a tensor, checked as they are read\n"
         "  glia runs verify ID                compare every byte with its checksums\n"
         "  glia runs add DIR                  list a harvest that lies in a folder of its own\n"
         "  glia runs rm ID...                 delete (of a harvest in its own folder only the entry)\n");
    flags_print(table, n);
    puts("\nExamples:\n"
         "  glia runs export run-20261127-030735-kp4rqwse resid_post.5 --rows 0:100 --out rows.npy\n"
         "  glia runs export run-20261127-030735-kp4rqwse z.3 --document 7 --offsets -1 --heads 0,4 --format list\n"
         "  glia runs add /data/run1");
    return EXIT_FINE;
}

static void print_size(char out[16], uint64_t bytes) {
    static const char units[] = "KMGT";
    double v = (double)bytes / 1024;
    size_t i = 0;
    while (v >= 1024 && i < 3) v /= 1024, i++;
    (void)snprintf(out, 16, "%.1f%c", v, units[i]);
}

static bool print_buf(glia_buf *b) {
    bool ok = !b->failed && puts(b->p) >= 0;
    glia_buf_clear(b);
    return ok;
}

/* ------------------------------------------------------------------ list, show */

static int list(glia_runs *s, const runs_options *o) {
    glia_run_about *l;
    glia_runs_usage u;
    glia_err err;
    size_t n;
    if (glia_runs_list(s, o->kind - 1, NULL, (size_t)o->limit, &l, &n, &err) || glia_runs_get_usage(s, &u, &err)) {
        (void)cli_print_error(&err);
        return EXIT_FAILED;
    }
    if (!n && !o->json) printf("glia: no runs in %s\n", glia_runs_folder(s));
    else if (!o->json) printf("%-30s  %-8s %-9s %8s %10s  %s\n", "id", "kind", "status", "size", "rows", "model, note");
    for (size_t i = 0; i < n; i++) {
        char size[16];
        glia_buf b = {0};
        print_size(size, l[i].bytes);
        if (o->json) {
            glia_add_run(&b, &l[i]);
            (void)print_buf(&b);
            continue;
        }
        printf("%-30s  %-8s %-9s %8s %10llu  %s%s%s\n", l[i].id, glia_run_kind_name(l[i].kind),
               glia_run_state_name(l[i].state), size, (unsigned long long)l[i].rows, l[i].model,
               l[i].note[0] ? ", " : "", l[i].note);
    }
    glia_free(l);
    return EXIT_FINE;
}

static void print_tensor(const glia_run_tensor *t) {
    char shape[64];
    if (t->n_cols)
        (void)snprintf(shape, sizeof shape, "%llu x %d x %d", (unsigned long long)t->rows, (int)t->n_heads,
                       (int)t->n_cols);
    else (void)snprintf(shape, sizeof shape, "%llu x %d", (unsigned long long)t->rows, (int)t->width);
    printf("  %-28s %-14s %5d  %-18s %-4s %s%s%s\n", t->name, glia_point_name(t->point), (int)t->layer, shape,
           glia_st_dtype_name(t->dtype), glia_grade_name(t->grade), t->reduce ? ", " : "",
           t->reduce ? glia_reduce_name(t->reduce) : "");
}

static int show(glia_runs *s, const runs_options *o, const char *id) {
    glia_run *r;
    glia_err err;
    if (glia_run_open(&r, s, id, &err)) return cli_print_error(&err), EXIT_FAILED;
    const glia_run_about *a = glia_run_get_about(r);
    if (o->json) {
        glia_buf b = {0};
        glia_add_open_run(&b, r);
        (void)print_buf(&b);
    } else {
        char when[32];
        struct tm utc;
        time_t t = (time_t)a->created;
        (void)strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&t, &utc));
        printf("%s\n  %s of %s, %s, %s\n  %s\n", a->id, glia_run_kind_name(a->kind), a->model,
               glia_run_state_name(a->state), when, a->folder);
        if (a->note[0]) printf("  %s\n", a->note);
        printf("\n  %-28s %-14s %5s  %-18s %-4s %s\n", "tensor", "point", "layer", "rows x width", "type", "grade");
        for (size_t i = 0; i < glia_run_n_tensors(r); i++) print_tensor(glia_run_tensor_at(r, i));
        puts("");
        for (size_t i = 0; i < glia_run_n_files(r); i++) {
            const glia_run_file *f = glia_run_file_at(r, i);
            printf("  %-28s %12llu bytes  sha256 %.16s…\n", f->name, (unsigned long long)f->bytes, f->sha256);
        }
    }
    glia_run_close(r);
    return EXIT_FINE;
}

/* ------------------------------------------------------------------ export, verify, add, rm */

static int export(glia_runs *s, const runs_options *o, const char *id, const char *tensor) {
    glia_run *r;
    glia_slice *slice = NULL;
    glia_err err;
    glia_slice_query q = o->q;
    glia_buf b = {0};
    q.format = formats[o->format];
    glia_status st = glia_run_open(&r, s, id, &err);
    if (!st) st = glia_slice_open(&slice, r, tensor, &q, &err);
    if (st) return cli_print_error(&err), EXIT_FAILED;
    FILE *f = o->out ? fopen(o->out, "wb") : stdout;
    bool wrote = f != NULL;
    for (bool end = false; wrote && !end && !st;) {
        b.n = 0;
        st = glia_slice_next(slice, &b, &end, &err);
        if (!st) wrote = fwrite(b.p, 1, b.n, f) == b.n;
    }
    if (f && (o->out ? fclose(f) : fflush(f))) wrote = false;
    if (!st && !wrote) fprintf(stderr, "glia: cannot write %s: %s\n", o->out ? o->out : "the output", strerror(errno));
    if (st) (void)cli_print_error(&err);
    if (o->out && (st || !wrote)) (void)remove(o->out); /* no half of an array is left */
    glia_buf_clear(&b);
    glia_slice_free(slice);
    return st || !wrote ? EXIT_FAILED : EXIT_FINE;
}

static int verify(glia_runs *s, const char *id) {
    glia_run *r;
    glia_err err;
    glia_status st = glia_run_open(&r, s, id, &err);
    if (st) return cli_print_error(&err), EXIT_FAILED;
    size_t n = glia_run_n_files(r);
    st = glia_run_verify(r, &err);
    glia_run_close(r);
    if (st) return cli_print_error(&err), EXIT_FAILED;
    printf("glia: %s: %zu file%s whole\n", id, n, n == 1 ? " is" : "s are");
    return EXIT_FINE;
}

static int add(glia_runs *s, const char *folder) {
    glia_run_about about;
    glia_err err;
    if (glia_harvest_add(s, folder, &about, &err)) return cli_print_error(&err), EXIT_FAILED;
    printf("%s\n", about.id);
    return EXIT_FINE;
}

static int drop(glia_runs *s, const flag_list *ids) {
    int status = EXIT_FINE;
    for (size_t i = 1; i < ids->n; i++) {
        glia_err err;
        bool kept;
        if (glia_runs_delete(s, ids->items[i], &kept, &err)) (void)cli_print_error(&err), status = EXIT_FAILED;
        else printf("glia: %s deleted%s\n", ids->items[i], kept ? "; its files stay where they are" : "");
    }
    return status;
}

static int usage(const char *what) {
    fprintf(stderr, "glia runs: %s\nTry: glia runs --help\n", what);
    return EXIT_USAGE;
}

static int dispatch(glia_runs *s, const runs_options *o, const flag_list *words) {
    const char *verb = words->n ? words->items[0] : "list";
    if (!strcmp(verb, "list")) return words->n > 1 ? usage("list takes no id") : list(s, o);
    if (!strcmp(verb, "show")) return words->n != 2 ? usage("show which run?") : show(s, o, words->items[1]);
    if (!strcmp(verb, "export"))
        return words->n != 3 ? usage("export needs a run and a tensor")
                             : export(s, o, words->items[1], words->items[2]);
    if (!strcmp(verb, "verify")) return words->n != 2 ? usage("verify which run?") : verify(s, words->items[1]);
    if (!strcmp(verb, "add")) return words->n != 2 ? usage("add which folder?") : add(s, words->items[1]);
    if (!strcmp(verb, "rm")) return words->n < 2 ? usage("rm which run?") : drop(s, words);
    return usage("list, show, export, verify, add or rm?");
}

int cli_runs(int argc, char **argv) {
    runs_options o = {0};
    flag table[N_FLAGS];
    flag_list words;
    bool wants_help;
    char folder[PATH_MAX];
    glia_runs *s;
    glia_err err;
    size_t n = own_flags(&o, table);
    if (!flags_parse(table, n, argc, argv, &words, &wants_help)) return EXIT_USAGE;
    if (wants_help) return help(table, n);
    if (o.store) (void)snprintf(folder, sizeof folder, "%s", o.store);
    else if (!glia_runs_default_folder(folder, sizeof folder)) return usage("no folder for runs: give --store DIR");
    if (glia_runs_open(&s, folder, 0, &err)) return cli_print_error(&err), EXIT_FAILED;
    int status = dispatch(s, &o, &words);
    glia_runs_close(s);
    return status;
}
