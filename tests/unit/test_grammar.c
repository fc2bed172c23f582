/* Grammars: what is refused and why, and that the matcher agrees with other ways to decide the same languages. */
#include "support.h"
#include "base/mem.h"
#include "engine/grammar/matcher.h"
#include <regex.h>
#include <stdio.h>
#include <string.h>

static glia_err err;

static glia_grammar *compile(const char *gbnf) {
    glia_grammar *g;
    glia_status st = glia_grammar_new(&g, gbnf, strlen(gbnf), &err);
    assert_int_equal(st == GLIA_OK, g != NULL);
    return g;
}

/* 2: a whole text of the language, 1: a beginning of one, 0: neither. */
static int judge(const glia_grammar *g, const char *text, size_t n) {
    glia_matcher *m;
    assert_int_equal(glia_matcher_new(&m, g, &err), GLIA_OK);
    glia_match r = glia_matcher_read(m, text, n);
    assert_int_not_equal(r, GLIA_MATCH_FAILED);
    int result = r == GLIA_MATCH_NO ? 0 : glia_matcher_may_end(m) ? 2 : 1;
    glia_matcher_free(m);
    return result;
}

/* ------------------------------------------------------------------ what is refused */

static void wrong_grammars_say_what_is_wrong(void **state) {
    (void)state;
    static const struct {
        const char *gbnf, *says;
    } rows[] = {
        {"", "no rule \"root\""},
        {"a ::= \"x\"", "no rule \"root\""},
        {"root ::= x", "\"x\" is used but not defined"},
        {"root ::= \"a", "not closed"},
        {"root ::= [a", "not closed"},
        {"root ::= (\"a\"", "not closed"},
        {"root ::= \"a\")", "does not belong"},
        {"root = \"a\"", "::= is expected"},
        {"root ::= *", "nothing to repeat"},
        {"root ::= \"a\"{5,3}", "below its least"},
        {"root ::= \"a\"{9999999999999999999999}", "more than 4096"},
        {"root ::= \"a\"{1,", "a count"},
        {"root ::= \"a\"{x}", "a count is expected"},
        {"root ::= \"\\q\"", "unknown escape"},
        {"root ::= \"\\xZZ\"", "hexadecimal"},
        {"root ::= \"\\UFFFFFFFF\"", "no character"},
        {"root ::= [z-a]", "backwards"},
        {"root ::= []", "no finite text"},
        {"root ::= root", "no finite text"},
        {"root ::= root \"a\"", "no finite text"},
        {"root ::= a\na ::= b\nb ::= \"(\" a \")\"", "no finite text"},
        {"root ::= \"a\"\nroot ::= \"b\"", "twice"},
        {"root ::= <think>", "not supported"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        glia_grammar *g = compile(rows[i].gbnf);
        if (g || !strstr(err.message, rows[i].says)) fail_msg("%s: \"%s\"", rows[i].gbnf, g ? "taken" : err.message);
        assert_string_equal(err.param, "grammar");
        glia_grammar_free(g);
    }
}

static void size_and_depth_are_bounded(void **state) {
    (void)state;
    static char text[(1 << 20) + 64];
    size_t n = (size_t)snprintf(text, sizeof text, "root ::= ");
    for (int i = 0; i < 100000; i++) text[n++] = '(';
    text[n] = 0;
    assert_null(compile(text));
    assert_non_null(strstr(err.message, "too deep"));
    /* nested repetition adds up and does not multiply: 4096 ^ 3 characters in a few thousand symbols */
    glia_grammar *g = compile("root ::= (((\"a\"{4096}){4096}){4096})");
    assert_non_null(g);
    assert_true(g->n_syms < 20000);
    assert_int_equal(judge(g, "aaaa", 4), 1);
    glia_grammar_free(g);
    n = (size_t)snprintf(text, sizeof text, "root ::= ");
    for (int i = 0; i < 100; i++) n += (size_t)sprintf(text + n, "(\"a\" \"b\"){4000} ");
    assert_null(compile(text));
    assert_non_null(strstr(err.message, "too large"));
    memset(text, ' ', sizeof text - 1);
    text[sizeof text - 1] = 0;
    assert_null(compile(text));
}

static void failing_allocations_are_errors(void **state) {
    (void)state;
    const char *gbnf = "root ::= a{2,5} ([^x] | \"yes\")* # comment\na ::= [a-z]+ | \"\"";
    glia_grammar *g = NULL;
    size_t n = 0;
    do {
        glia_fault_arm(++n);
        glia_status st = glia_grammar_new(&g, gbnf, strlen(gbnf), &err);
        int fired = glia_fault_fired();
        glia_fault_arm(0);
        assert_int_equal(st, fired ? GLIA_ENOMEM : GLIA_OK);
        if (!fired) break;
    } while (n < 1000);
    for (n = 1; n < 1000; n++) {
        glia_matcher *m = NULL;
        glia_fault_arm(n);
        glia_status st = glia_matcher_new(&m, g, &err);
        glia_match r = st ? GLIA_MATCH_FAILED : glia_matcher_read(m, "abcdefgh", 8);
        int fired = glia_fault_fired();
        glia_fault_arm(0);
        assert_int_equal(r, fired ? GLIA_MATCH_FAILED : GLIA_MATCH_YES);
        glia_matcher_free(m);
        if (!fired) break;
    }
    glia_grammar_free(g);
}

/* ------------------------------------------------------------------ languages, decided in another way */

enum { LONGEST = 7, PREFIX = 3 }; /* no language below needs more than LONGEST to end such a beginning */

/* Every text over {a, b, c} up to LONGEST: whole or not as `is` says; and up to PREFIX: a beginning exactly when some
 * longer one is whole. */
static void compare(const char *gbnf, bool (*is)(const char *text, const void *ud), const void *ud) {
    glia_grammar *g = compile(gbnf);
    if (!g) fail_msg("%s: %s", gbnf, err.message);
    static bool begins[3 * 3 * 3 * 3 * 3 * 3];
    memset(begins, 0, sizeof begins);
    char text[LONGEST + 1] = "";
    for (int n = LONGEST; n >= 0; n--) {
        int count = 1;
        for (int i = 0; i < n; i++) count *= 3;
        for (int k = 0; k < count; k++) {
            int v = k, first = 0;
            for (int i = n - 1; i >= 0; i--, v /= 3) text[i] = (char)('a' + v % 3);
            text[n] = 0;
            for (int i = 0; i < n && i < PREFIX; i++) first = first * 3 + (text[i] - 'a');
            bool whole = is(text, ud);
            int got = judge(g, text, (size_t)n);
            if ((got == 2) != whole) fail_msg("%s: \"%s\" is %s whole", gbnf, text, whole ? "" : "not");
            /* remember for each of its beginnings of PREFIX characters at most */
            for (int i = n < PREFIX ? n : PREFIX, f = first; whole && i >= 0; i--, f /= 3) begins[f + 100 * i] = true;
            if (n <= PREFIX && (got > 0) != begins[first + 100 * n])
                fail_msg("%s: \"%s\" is %s beginning", gbnf, text, got ? "taken as a" : "no");
        }
    }
    glia_grammar_free(g);
}

static bool by_regex(const char *text, const void *ud) { return !regexec(ud, text, 0, NULL, 0); }

static void regular_languages_are_those_of_regexec(void **state) {
    (void)state;
    static const struct {
        const char *gbnf, *regex;
    } rows[] = {
        {"root ::= \"a\"* \"b\"? \"c\"+", "^a*b?c+$"},
        {"root ::= (\"ab\" | \"a\" | \"ba\"){2,3}", "^(ab|a|ba){2,3}$"},
        {"root ::= [ab]{2} [^b]*", "^[ab]{2}[^b]*$"},
        {"root ::= ((\"a\"? \"b\"?)* \"c\")*", "^((a?b?)*c)*$"},
        {"root ::= (\"a\"* \"b\"*)*", "^(a*b*)*$"},
        {"root ::= x{0,3} \"c\"\nx ::= \"a\" | \"bb\" | \"\"", "^(a|bb|){0,3}c$"},
        {"root ::= . \"b\" .", "^.b.$"},
        {"root ::= list\nlist ::= item | item \",\"? list\nitem ::= [ab]", "^[ab]+$"},
        {"root ::= root [ab] | \"c\"", "^c[ab]*$"},
        {"root ::= (\"aa\"){0} \"b\"{2,}", "^b{2,}$"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        regex_t re;
        assert_int_equal(regcomp(&re, rows[i].regex, REG_EXTENDED | REG_NOSUB), 0);
        compare(rows[i].gbnf, by_regex, &re);
        regfree(&re);
    }
}

/* a^n b^n c?, decided by counting. */
static bool counted(const char *t, const void *ud) {
    (void)ud;
    size_t a = strspn(t, "a"), b = strspn(t + a, "b");
    return a == b && (!t[a + b] || (t[a + b] == 'c' && !t[a + b + 1]));
}

static bool palindrome(const char *t, const void *ud) {
    (void)ud;
    size_t n = strlen(t);
    for (size_t i = 0; i < n / 2; i++) {
        if (t[i] != t[n - 1 - i]) return false;
    }
    return true;
}

/* Balanced: a opens, b closes, c is anything. */
static bool balanced(const char *t, const void *ud) {
    int depth = 0;
    (void)ud;
    for (; *t && depth >= 0; t++) depth += *t == 'a' ? 1 : *t == 'b' ? -1 : 0;
    return depth == 0;
}

static void context_free_languages_too(void **state) {
    (void)state;
    compare("root ::= x \"c\"?\nx ::= \"a\" x \"b\" | \"\"", counted, NULL);
    compare("root ::= \"a\" root \"a\" | \"b\" root \"b\" | \"c\" root \"c\" | [abc] | \"\"", palindrome, NULL);
    static const char *const spellings[] = {
        "root ::= (\"c\" | \"a\" root \"b\")*",
        "root ::= root root | \"c\" | \"a\" root \"b\" | \"\"",                             /* as ambiguous as can be */
        "root ::= x root | \"\"\nx ::= \"c\" | \"a\" root \"b\"",                           /* right recursion */
        "root ::= root x | \"\"\nx ::= \"c\" | \"a\" root \"b\"",                           /* left recursion */
        "root ::= e x* e\nx ::= \"c\" | e \"a\" root \"b\"\ne ::= \"\" | e e | f\nf ::= e", /* cycles that match nothing */
    };
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) compare(spellings[i], balanced, NULL);
}

/* ------------------------------------------------------------------ bytes */

static void characters_may_be_cut_anywhere(void **state) {
    (void)state;
    glia_grammar *g = compile("root ::= [à-ÿ]+ \"世\" [\\U0001F600-\\U0001F64F]?");
    assert_non_null(g);
    const char *text = "éü世😀";
    for (size_t i = 0; i <= strlen(text); i++) assert_true(judge(g, text, i) > 0);
    assert_int_equal(judge(g, text, strlen(text)), 2);
    assert_int_equal(judge(g, "\xc3\x85", 2), 0); /* Å is not among them, its first byte is */
    assert_int_equal(judge(g, "\xc3", 1), 1);
    assert_int_equal(judge(g, "\xc4", 1), 0);
    assert_int_equal(judge(g, "\xc3\xa9\xe4", 3), 1);
    assert_int_equal(judge(g, "\xc3\xa9\xe5", 3), 0);
    assert_int_equal(judge(g, "\xff", 1), 0);
    assert_int_equal(judge(g, "\x80", 1), 0);
    assert_int_equal(judge(g, "\xc3\x28", 2), 0);
    glia_grammar_free(g);
    g = compile("root ::= .*");
    assert_int_equal(judge(g, "\xed\xa0\x80", 3), 0); /* a surrogate */
    assert_int_equal(judge(g, "\xf4\x90\x80\x80", 4), 0);
    assert_int_equal(judge(g, "\xe0\x80\x80", 3), 0); /* too long a form */
    assert_int_equal(judge(g, "\n\xf4\x8f\xbf\xbf", 5), 2);
    glia_grammar_free(g);
}

static void a_refused_text_changes_nothing(void **state) {
    (void)state;
    glia_grammar *g = compile("root ::= \"ab\" [cd]* \"e\"");
    glia_matcher *m;
    assert_int_equal(glia_matcher_new(&m, g, &err), GLIA_OK);
    assert_int_equal(glia_matcher_read(m, "abc", 3), GLIA_MATCH_YES);
    assert_int_equal(glia_matcher_read(m, "dx", 2), GLIA_MATCH_NO);
    assert_int_equal(glia_matcher_read(m, "de", 2), GLIA_MATCH_YES);
    assert_true(glia_matcher_must_end(m));
    glia_matcher_free(m);
    glia_grammar_free(g);
}

static void sorted_trials_agree_with_single_ones(void **state) {
    (void)state;
    static const char *const words[] = {"a", "aa", "aab", "aabc", "ab", "abc", "b", "ba", "bab", "c", "cc", "ca"};
    glia_grammar *g = compile("root ::= (\"aab\" | \"b\" \"a\"*)* \"c\"");
    glia_matcher *m;
    assert_int_equal(glia_matcher_new(&m, g, &err), GLIA_OK);
    for (int round = 0; round < 3; round++) {
        glia_match alone[12];
        for (int i = 0; i < 12; i++) {
            glia_matcher_try_begin(m);
            alone[i] = glia_matcher_try(m, words[i], strlen(words[i]), 0);
            glia_matcher_try_end(m);
        }
        glia_matcher_try_begin(m);
        for (int i = 0; i < 12; i++) {
            size_t shared = 0;
            while (i && words[i][shared] && words[i][shared] == words[i - 1][shared]) shared++;
            assert_int_equal(glia_matcher_try(m, words[i], strlen(words[i]), shared), alone[i]);
        }
        glia_matcher_try_end(m);
        assert_int_equal(glia_matcher_read(m, "aab", 3), GLIA_MATCH_YES);
    }
    glia_matcher_free(m);
    glia_grammar_free(g);
}

/* ------------------------------------------------------------------ hostile grammars */

/* Read up to n characters of text again and again; true: all of them, false: the budget ended it. */
static bool survives(const char *gbnf, const char *text, int n) {
    glia_grammar *g = compile(gbnf);
    if (!g) fail_msg("%s: %s", gbnf, err.message);
    glia_matcher *m;
    assert_int_equal(glia_matcher_new(&m, g, &err), GLIA_OK);
    glia_match r = GLIA_MATCH_YES;
    for (int i = 0; i < n && r == GLIA_MATCH_YES; i++) r = glia_matcher_read(m, &text[(size_t)i % strlen(text)], 1);
    assert_int_not_equal(r, GLIA_MATCH_NO);
    if (r == GLIA_MATCH_FAILED) assert_true(glia_matcher_why(m)[0]);
    glia_matcher_free(m);
    glia_grammar_free(g);
    return r == GLIA_MATCH_YES;
}

static void hostile_grammars_end(void **state) {
    (void)state;
    /* 2^n ways to read a^n: llama.cpp's stacks take all memory */
    assert_true(survives("root ::= s\ns ::= \"a\" s \"b\" | \"a\" s \"c\" | \"a\" s \"d\" | \"\"", "a", 3000));
    assert_true(survives("root ::= (\"a\" | \"aa\" | \"aaa\")*", "a", 3000));
    assert_true(survives("root ::= (((\"a\"*)*)*)*", "a", 300));
    assert_true(survives("root ::= x\nx ::= [a-z] x | \"!\"", "abc", 3000)); /* right recursion adds nothing */
    /* cubic: the budget decides, and it does end */
    assert_false(survives("root ::= s\ns ::= s s | \"a\" | \"\"", "a", 20000));
    (void)survives("root ::= (\"a\"? \"b\"? \"c\"?){4000}", "abc", 500);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_grammars_say_what_is_wrong),
        cmocka_unit_test(size_and_depth_are_bounded),
        cmocka_unit_test(failing_allocations_are_errors),
        cmocka_unit_test(regular_languages_are_those_of_regexec),
        cmocka_unit_test(context_free_languages_too),
        cmocka_unit_test(characters_may_be_cut_anywhere),
        cmocka_unit_test(a_refused_text_changes_nothing),
        cmocka_unit_test(sorted_trials_agree_with_single_ones),
        cmocka_unit_test(hostile_grammars_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
