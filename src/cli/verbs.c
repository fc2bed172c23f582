/* cli/verbs.c — the verbs of the program, in the order in which help names them.  Main thread. */
#include "cli/cli.h"

const cli_verb cli_verbs[] = {
    {"serve", cli_serve},     {"demo", cli_demo},       {"models", cli_models}, {"inspect", cli_inspect},       {"harvest", cli_harvest},
    {"sweep", cli_sweep},
    {"version", cli_version}, {"openapi", cli_openapi}, {"completion", cli_completion}, {"help", cli_help},
    {"runs", cli_runs},
    {NULL, NULL},
};
