/* cli/help.c — glia help, version and openapi.  Main thread. */
#include "api/handlers.h"
#include "cli/cli.h"
#include "tap/names.h"
#include <stdio.h>
#include <string.h>

/* The tables of docs/HOOKS.md, which is kept equal to them. */
static int print_names(void) {
    glia_buf b = {0};
    glia_names_page(&b);
    bool ok = !b.failed && fputs(b.p, stdout) >= 0;
    glia_buf_clear(&b);
    return ok ? EXIT_FINE : EXIT_FAILED;
}

int cli_help(int argc, char **argv) {
    if (argc > 0) {
        char *ask[] = {(char[]){"--help"}};
        if (!strcmp(argv[0], "serve")) return cli_serve(1, ask);
        if (!strcmp(argv[0], "demo")) return cli_demo(1, ask);
        if (!strcmp(argv[0], "models")) return cli_models(1, ask);
        if (!strcmp(argv[0], "inspect")) return cli_inspect(1, ask);
        if (!strcmp(argv[0], "hooks")) return print_names();
        if (!strcmp(argv[0], "completion")) return cli_completion(1, ask);
        if (!strcmp(argv[0], "harvest")) return cli_harvest(1, ask);
        if (!strcmp(argv[0], "runs")) return cli_runs(1, ask);
        if (!strcmp(argv[0], "sweep")) return cli_sweep(1, ask);
    }
    puts("glia — local language models (GGUF) over HTTP, with real activations per request\n\n"
         "  glia serve --model FILE|ID     serve a model on 127.0.0.1:1234\n"
         "  glia demo --model FILE|ID      start a server, ask it something, show activations, stop\n"
         "  glia models [NAME]             what lies in the model folders, and what loading it would take\n"
         "  glia inspect FILE|ID           what a model is, and which activations it gives\n"
         "  glia harvest --model … --data FILE --points LIST --out DIR\n"
         "                                 the activations of a data set, in files; resumable\n"
         "  glia runs [show|export|rm …]   stored requests and harvests, and rows out of them\n"
         "  glia sweep --model … --clean TEXT --corrupted TEXT --answer TOKEN --wrong TOKEN\n"
         "                                 which layers, positions and heads carry an answer\n"
         "  glia completion bash|zsh|fish  a script that completes verbs and flags\n"
         "  glia version                   versions of Glia and the llama.cpp inside\n"
         "  glia openapi                   the HTTP interface as an OpenAPI page\n"
         "  glia help VERB                 flags and examples of a verb\n"
         "  glia help hooks                every point and every name of one, as Markdown\n\n"
         "Examples:\n"
         "  glia serve --model SmolLM2-135M-Instruct\n"
         "  glia serve --model llama.gguf --listen 127.0.0.1:8080 --ctx 8192\n"
         "  glia inspect llama.gguf --json");
    return EXIT_FINE;
}

int cli_version(int argc, char **argv) {
    bool json = argc > 0 && !strcmp(argv[0], "--json");
    printf(json ? "{\"glia\":\"%s\",\"llama_cpp\":\"%s\"}\n" : "glia %s (llama.cpp %s)\n", glia_version(),
           glia_llama_version());
    return EXIT_FINE;
}

int cli_openapi(int argc, char **argv) {
    (void)argc, (void)argv;
    glia_buf b = {0};
    glia_add_openapi(&b);
    bool ok = !b.failed && fputs(b.p, stdout) >= 0;
    glia_buf_clear(&b);
    return ok ? EXIT_FINE : EXIT_FAILED;
}
