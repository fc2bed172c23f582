/* cli/main.c — the verbs of the program.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "tap/names.h"
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} verbs[] = {
    {"serve", cli_serve},     {"demo", cli_demo},       {"inspect", cli_inspect}, {"harvest", cli_harvest},
    {"version", cli_version}, {"openapi", cli_openapi}, {"help", cli_help},
};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

int main(int argc, char **argv) {
    (void)setlocale(LC_CTYPE, ""); /* numbers stay as in C */
    (void)signal(SIGPIPE, SIG_IGN);
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        (void)cli_help(0, NULL);
        return argc < 2 ? EXIT_USAGE : EXIT_FINE;
    }
    if (!strcmp(argv[1], "--version")) return cli_version(0, NULL);
    const char *names[N_VERBS];
    for (int i = 0; i < N_VERBS; i++) {
        if (!strcmp(argv[1], verbs[i].name)) return verbs[i].run(argc - 2, argv + 2);
        names[i] = verbs[i].name;
    }
    char hint[128];
    glia_nearest(argv[1], names, N_VERBS, hint, sizeof hint);
    fprintf(stderr, "glia: unknown command \"%s\"; the nearest are %s (glia --help)\n", argv[1], hint);
    return EXIT_USAGE;
}
