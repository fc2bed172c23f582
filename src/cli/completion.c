/* cli/completion.c — glia completion: scripts that complete verbs and flags in bash, zsh and fish, made from the same
 * tables that the verbs parse with.  Main thread. */
#include "cli/cli.h"
#include <stdio.h>
#include <string.h>

typedef void (*print_flag)(const char *verb, const flag *f);

typedef struct visit {
    const char *verb;
    print_flag print;
} visit;

static void on_table(void *ud, const flag *table, size_t n) {
    const visit *v = ud;
    for (size_t i = 0; i < n; i++) v->print(v->verb, &table[i]);
}

/* Every flag of a verb; nothing for verbs without a table. */
static void flags_of(const cli_verb *verb, print_flag print) {
    if (verb->run == cli_completion || verb->run == cli_help || verb->run == cli_version || verb->run == cli_openapi)
        return;
    visit v = {verb->name, print};
    flags_describe_next(on_table, &v);
    (void)verb->run(0, NULL); /* hands its table over and does nothing else */
}

static bool takes_file(const flag *f) {
    return f->value && (strstr(f->value, "FILE") || strstr(f->value, "DIR") || strstr(f->value, "PATH"));
}

/* ------------------------------------------------------------------ bash */

static void bash_flag(const char *verb, const flag *f) {
    (void)verb;
    printf(" %s", f->name);
}

static void bash_values(const char *verb, const flag *f) {
    if (!f->choices && !takes_file(f)) return;
    printf("        %s:%s) ", verb, f->name);
    if (f->choices) {
        fputs("COMPREPLY=($(compgen -W \"", stdout);
        for (int i = 0; f->choices[i]; i++) printf(i ? " %s" : "%s", f->choices[i]);
        puts("\" -- \"$word\")); return ;;");
    } else {
        puts("COMPREPLY=($(compgen -f -- \"$word\")); return ;;");
    }
}

static void bash(void) {
    puts("# bash completion of glia: glia completion bash >/etc/bash_completion.d/glia");
    puts("_glia() {\n    local word=\"${COMP_WORDS[COMP_CWORD]}\" before=\"${COMP_WORDS[COMP_CWORD-1]}\" verb=\"${COMP_WORDS[1]}\"\n"
         "    COMPREPLY=()\n    if [ \"$COMP_CWORD\" -eq 1 ]; then");
    fputs("        COMPREPLY=($(compgen -W \"", stdout);
    for (const cli_verb *v = cli_verbs; v->name; v++) printf(v == cli_verbs ? "%s" : " %s", v->name);
    puts("\" -- \"$word\"))\n        return\n    fi\n    case \"$verb:$before\" in");
    for (const cli_verb *v = cli_verbs; v->name; v++) flags_of(v, bash_values);
    puts("        completion:completion) COMPREPLY=($(compgen -W \"bash zsh fish\" -- \"$word\")); return ;;\n    esac\n"
         "    case \"$verb\" in");
    for (const cli_verb *v = cli_verbs; v->name; v++) {
        printf("        %s) COMPREPLY=($(compgen -W \"--help", v->name);
        flags_of(v, bash_flag);
        puts("\" -- \"$word\")) ;;");
    }
    puts("    esac\n    [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- \"$word\"))\n}\ncomplete -F _glia glia");
}

/* ------------------------------------------------------------------ zsh */

/* Text inside '…[…]…': quotes, brackets and colons have a meaning there. */
static void zsh_text(const char *s) {
    for (; *s; s++) {
        if (*s == '\'') fputs("'\\''", stdout);
        else if (strchr("[]:", *s)) printf("\\%c", *s);
        else putchar(*s);
    }
}

static void zsh_flag(const char *verb, const flag *f) {
    (void)verb;
    printf("            '%s%s[", f->kind == FLAG_LIST ? "*" : "", f->name);
    zsh_text(f->doc);
    putchar(']');
    if (f->kind != FLAG_SWITCH) {
        putchar(':');
        zsh_text(f->value);
        putchar(':');
        if (f->choices) {
            putchar('(');
            for (int i = 0; f->choices[i]; i++) printf(i ? " %s" : "%s", f->choices[i]);
            putchar(')');
        } else if (takes_file(f)) {
            fputs("_files", stdout);
        }
    }
    puts("' \\");
}

static void zsh(void) {
    puts("#compdef glia\n# zsh completion of glia: glia completion zsh >\"${fpath[1]}/_glia\"");
    fputs("_glia() {\n    if (( CURRENT == 2 )); then\n        compadd", stdout);
    for (const cli_verb *v = cli_verbs; v->name; v++) printf(" %s", v->name);
    puts("\n        return\n    fi\n    local verb=\"${words[2]}\"\n    shift words\n    (( CURRENT-- ))\n    case \"$verb\" in");
    for (const cli_verb *v = cli_verbs; v->name; v++) {
        printf("        %s)\n            _arguments \\\n            '--help[flags and examples]' \\\n", v->name);
        flags_of(v, zsh_flag);
        puts("            '*:file:_files' ;;");
    }
    puts("    esac\n}\n_glia \"$@\"");
}

/* ------------------------------------------------------------------ fish */

static void fish_flag(const char *verb, const flag *f) {
    printf("complete -c glia -n '__fish_seen_subcommand_from %s' -l %s", verb, f->name + 2);
    if (f->choices) {
        fputs(" -x -a '", stdout);
        for (int i = 0; f->choices[i]; i++) printf(i ? " %s" : "%s", f->choices[i]);
        putchar('\'');
    } else if (f->kind != FLAG_SWITCH) {
        fputs(takes_file(f) ? " -r" : " -x", stdout);
    }
    fputs(" -d '", stdout);
    for (const char *s = f->doc; *s; s++) {
        if (*s == '\'' || *s == '\\') putchar('\\');
        putchar(*s);
    }
    puts("'");
}

static void fish(void) {
    puts("# fish completion of glia: glia completion fish >~/.config/fish/completions/glia.fish");
    for (const cli_verb *v = cli_verbs; v->name; v++)
        printf("complete -c glia -f -n __fish_use_subcommand -a %s\n", v->name);
    for (const cli_verb *v = cli_verbs; v->name; v++) flags_of(v, fish_flag);
}

int cli_completion(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*print)(void);
    } shells[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};
    for (size_t i = 0; argc == 1 && i < sizeof shells / sizeof *shells; i++) {
        if (strcmp(argv[0], shells[i].name)) continue;
        shells[i].print();
        return fflush(stdout) ? EXIT_FAILED : EXIT_FINE;
    }
    bool help = argc == 1 && (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h"));
    fputs("glia completion — complete verbs and flags in your shell\n\n"
          "  glia completion bash >/etc/bash_completion.d/glia\n"
          "  glia completion zsh >\"${fpath[1]}/_glia\"\n"
          "  glia completion fish >~/.config/fish/completions/glia.fish\n",
          help ? stdout : stderr);
    return help ? EXIT_FINE : EXIT_USAGE;
}
