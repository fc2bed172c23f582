"""Does the soak find rows that are off by one, and the test of interventions rows changed off by one?  Each mutant is a
copy of one source file with a small, deliberate fault; it is compiled as the build compiles the file, linked in front of
the library, and the test must fail with it (a wrong row, a crash or a hang).  The soak may with one of three seeds: which
requests share a pass hangs on the machine's speed, and some mutants only show then.

Nothing of this is in the product: a mutant is made by replacing text that must occur exactly once (or as often as
said); when the code has moved on, the test says so.  MUTANTS=name,… runs only these."""
import json
import os
import re
import shlex
import subprocess
import tempfile
import threading
import unittest

SOURCE = os.environ.get("GLIA_SOURCE_DIR", "")
BUILD = os.getcwd()
SOAK, EDIT = "tests/test_unit_soak", "tests/test_unit_edit"
PREFIX, STAGING, ENDS = "tests/test_unit_prefix", "tests/test_unit_staging", "tests/test_unit_ends"
ATTENTION_EDIT = "tests/test_unit_attention_edit"
REQUESTS = "150"
SEEDS = ("20261123", "7", "8")

# name: {file: [(text, replacement, occurrences)]}
MUTANTS = {
    "the row above": {"src/tap/capture.c": [
        ("int32_t xr = outputs ? t->out_row[row] : row;",
         "int32_t xr = outputs ? t->out_row[row] : row; xr -= xr > (int32_t)sp.x0;", 1)]},
    "rows in reverse order": {"src/tap/capture.c": [
        ("int32_t xr = outputs ? t->out_row[row] : row;",
         "int32_t xr = outputs ? t->out_row[row] : row; xr = (int32_t)(sp.x0 + sp.x1) - xr;", 1)]},
    "output rows counted from one": {"src/tap/tap.c": [
        ("t->out_row[i] = rows[i].output ? o++ : -1;", "t->out_row[i] = rows[i].output ? ++o % t->n_outputs : -1;", 1)],
        "src/tap/prove.c": [("same &= v[i] == row++;", "row++;", 1)]},
    "head stride one short": {"src/tap/capture.c": [
        ("src + (size_t)w->heads[k] * stride, hd", "src + (size_t)w->heads[k] * (stride - sizeof(float)), hd", 1)]},
    "the row of the slot before": {"src/engine/wants.c": [
        (".row0 = s->row0,\n                           .n_rows", ".row0 = s->row0 - (s->row0 > 0),\n.n_rows", 1)]},
    "mask of the chunk one row late": {"src/engine/wants.c": [
        ("s->masks[h] ? s->masks[h] + s->n_past : NULL", "s->masks[h] ? s->masks[h] + s->n_past - (s->n_past > 0) : NULL", 1)]},
    "rows of a later chunk over the first": {"src/engine/wants.c": [
        ("size_t at = (size_t)have * (size_t)one.out_width;", "size_t at = (size_t)(have - (have > 0)) * (size_t)one.out_width;", 1)]},
    "positions one too high": {"src/engine/wants.c": [
        ("frame_positions(f)[have + n] = w->rows[s->row0 + i].pos;", "frame_positions(f)[have + n] = w->rows[s->row0 + i].pos + 1;", 1)]},
    "token of the first row": {"src/engine/wants.c": [
        ("frame_tokens(f)[have + n] = w->rows[s->row0 + i].token;", "frame_tokens(f)[have + n] = w->rows[s->row0].token;", 1)]},
    "a wanted row from the cache": {"src/engine/prefix.c": [
        ("if (n > r->first_wanted) n = r->first_wanted;", "if (n > r->first_wanted) n = r->first_wanted + 1;", 1)]},
    "slots planned in reverse order, nothing proven": {
        "src/engine/batch.c": [
            ("        else add_prefill(w, s, n);\n    }\n",
             """        else add_prefill(w, s, n);
    }
    for (int32_t a = 0, b = w->batch.n_tokens - 1; n == 1 && a < b; a++, b--) {
        glia_tap_row t = w->rows[a];
        w->rows[a] = w->rows[b], w->rows[b] = t;
    }
    for (int32_t i = first; n == 1 && i <= last; i++) w->slots[i].row0 = w->batch.n_tokens - 1 - w->slots[i].row0;
""", 1)],
        "src/tap/tap.c": [("if (same) t->proven", "if (same || t) t->proven", 1)],
        "src/tap/prove.c": [("if (same) t->proven", "if (same || t) t->proven", 3)]},
    "statistics counted twice": {"src/engine/collect.c": [
        ("        glia_sums_merge(c->hook[h].total[generated ? GENERATED : PROMPT], c->hook[h].pass);\n",
         "        glia_sums_merge(c->hook[h].total[generated ? GENERATED : PROMPT], c->hook[h].pass);\n" * 2, 1)]},
    "statistics of the row before": {"src/tap/capture.c": [
        ("    reduce_row(w, row);\n}",
         "    reduce_row(w, row - (w->sums && w->n_copied && row != t->row ? x->nb[pl->row_axis] / sizeof(float) : 0));\n}",
         1)]},
    "attention of the first heads instead of the chosen": {"src/tap/attention.c": [
        ("{ return w->heads ? w->heads[k] : k; }", "{ return w ? k : 0; }", 1)]},
}

# the same, found by the test of interventions
EDIT_MUTANTS = {
    "edits in the rows of the slot before": {"src/engine/wants.c": [
        (".row0 = s->row0,\n                                   .n_rows", ".row0 = s->row0 - (s->row0 > 0),\n.n_rows", 1)]},
    "edits of the chunk one row late": {"src/engine/wants.c": [
        (".mask = mask ? mask + s->n_past : NULL,", ".mask = mask ? mask + s->n_past - (s->n_past > 0) : NULL,", 1)]},
    "vectors of the first chunk again": {"src/engine/wants.c": [
        (".first = glia_rhook_count(k, 0, s->n_past),", ".first = 0,", 1)]},
    "edits in the row above": {"src/tap/edit.c": [
        ("to = out_row ? out_row[row] : row;", "to = (out_row ? out_row[row] : row) - (row > 0);", 1)]},
    "edits in the head before the chosen one": {"src/tap/edit.c": [
        ("(size_t)e->heads[c / hd] * hd", "(size_t)(e->heads[c / hd] - 1) * hd", 1)]},
}

# changes of attention
ATTENTION_EDIT_MUTANTS = {
    "attention changed one column on": {"src/tap/attention_edit.c": [
        ("if (c >= from) x[c] = changed(", "if (c + 1 <= p && c >= from) x[c + 1] = changed(", 1)]},
    "values of the next head": {"src/tap/attention_edit.c": [
        ("head / (n_heads / w->v.x->ne[2]), row", "(head / (n_heads / w->v.x->ne[2]) + 1) % w->v.x->ne[2], row", 1)]},
    "attention of the row before": {"src/tap/attention_edit.c": [
        ("(size_t)(t % w->m->n_tps) * node->nb[2]", "(size_t)((t - (t > 0)) % w->m->n_tps) * node->nb[2]", 1)]},
}

# what the prompt cache brings from elsewhere
PREFIX_MUTANTS = {
    "a state copied one token short": {"src/engine/prefix.c": [
        ("    s->n_past = e->n;\n", "    s->n_past = e->n - 1;\n", 1),
        ("llama_memory_seq_pos_max(w->mem, s->id) != e->n - 1", "!e->n", 1)]},
    "cells believed behind a copied state": {"src/engine/prefix.c": [
        ("    glia_tap_lose(w->tap, s->id);\n", "", 1)]},
    "a state kept behind an edit's first row": {"src/engine/prefix.c": [
        ("static int32_t clean(const glia_slot *s) { return s->n_past < s->n_clean ? s->n_past : s->n_clean; }",
         "static int32_t clean(const glia_slot *s) { return s->n_past; }", 1)]},
    "a state that cannot be cut is cut": {"src/engine/shelf.c": [
        ("if (s->whole && n < e->n) continue;", "", 1)]},
}

# and rows on their way through staging memory, by its test
STAGING_MUTANTS = {
    "every piece to the first one's place": {"src/tap/staging.c": [
        ("&ring, to + done, 0, some)", "&ring, to, 0, some)", 1)]},
    "every piece from the node's start": {"src/tap/staging.c": [
        ("(char *)x->data + off + done, some)", "(char *)x->data + off, some)", 1)]},
    "rows staged from the row before": {"src/tap/capture.c": [
        ("glia_staging_copy(t->staging, x, sp->x0 * row,", "glia_staging_copy(t->staging, x, (sp->x0 - (sp->x0 > 0)) * row,", 1)]},
    "rows that lie apart staged as one piece": {"src/tap/capture.c": [
        ("if (!w->mask[r - w->row0]) return false;", "", 1)]},
}

# passes that end early
ENDS_MUTANTS = {
    "half a cache offered as a prefix": {"src/engine/pass.c": [
        ("if (end < w->m->atlas->last_store) spoil(w);", "", 1)]},
    "a pass ends where somebody else keeps the cache": {"src/engine/pass.c": [
        ("if (!s->leaves_nothing && w->m->atlas->last_store > end) end = w->m->atlas->last_store;", "", 1)]},
    "a pass ends before somebody draws": {"src/engine/pass.c": [
        ("return last >= 0;", "return false;", 1)]},
    "a pass ends at the lowest hook": {"src/engine/admit.c": [
        ("if (pl && pl->node > s->end_node)", "if (pl && (s->end_node < 0 || pl->node < s->end_node))", 1)]},
    "logits of the row before": {"src/tap/tail.c": [
        ("take_rows(&l->rows, l->first, l->n);", "take_rows(&l->rows, l->first - (l->first > 0), l->n);", 1)]},
    "logits left where the last row's would be": {"src/tap/tail.c": [
        ("take_rows(node, l->first, l->n);", "take_rows(node, 0, l->n);", 1)]},
    "a pass ends before its rows are proven": {"src/tap/tail.c": [
        ("if (node < t->at->last_proof) node = t->at->last_proof;", "", 1)]},
}


def commands():
    with open(os.path.join(BUILD, "compile_commands.json")) as f:
        return {os.path.relpath(os.path.realpath(c["file"]), os.path.realpath(SOURCE)): c["command"] for c in json.load(f)}


def link_command(target):
    if os.path.exists(os.path.join(BUILD, "build.ninja")):
        lines = subprocess.run(["ninja", "-t", "commands", target], capture_output=True, text=True, check=True).stdout
        return re.search(r"^: && (.*) && :$", lines.splitlines()[-1]).group(1)
    with open(os.path.join(BUILD, "CMakeFiles", os.path.basename(target) + ".dir", "link.txt")) as f:
        return f.read().strip()


def mutate(path, changes):
    with open(os.path.join(SOURCE, path)) as f:
        text = f.read()
    for old, new, n in changes:
        if text.count(old) != n:
            raise AssertionError("%s: %r occurs %d times, not %d: the mutant no longer fits the code"
                                 % (path, old, text.count(old), n))
        text = text.replace(old, new)
    return text


class Mutation(unittest.TestCase):
    def build(self, folder, target, mutant):
        objects = []
        for path, changes in mutant.items():
            copy = os.path.join(folder, os.path.basename(path))
            with open(copy, "w") as f:
                f.write(mutate(path, changes))
            words = shlex.split(self.commands[path])
            words[words.index("-c") + 1] = copy
            words[words.index("-o") + 1] = objects_path = copy + ".o"
            here = os.path.dirname(os.path.join(SOURCE, path))
            words[1:1] = [] if "ccache" not in words[0] else [words.pop(1)]
            words += ["-iquote", here, "-w", "-g0"]
            p = subprocess.run(words, cwd=BUILD, capture_output=True, text=True)
            self.assertEqual(p.returncode, 0, "%s does not compile:\n%s" % (path, p.stderr))
            objects.append(objects_path)
        program = os.path.join(folder, "mutant")
        words = shlex.split(link_command(target))
        at = words.index("-o")
        words[at + 1] = program
        words[at:at] = objects + ["-Wl,-s"]
        p = subprocess.run(words, cwd=BUILD, capture_output=True, text=True)
        self.assertEqual(p.returncode, 0, p.stderr)
        return program

    @staticmethod
    def reason(text):
        """The soak's own word, or the assertion that failed, without cmocka's marks."""
        for pattern in (r"ERROR: (.*)", r"ERROR *\] --- (.*)"):
            found = re.search(pattern, text)
            if found:
                return found[1]
        return "no reason given"

    def run_test(self, program, seed=None):
        env = dict(os.environ, MALLOC_PERTURB_="85")
        if seed:
            env.update(SOAK_REQUESTS=REQUESTS, SOAK_SEED=seed, SOAK_FAMILIES="llama")
        p = subprocess.Popen([program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=env)
        hangs = threading.Event()
        watchdog = threading.Timer(120, lambda: (hangs.set(), p.kill()))
        watchdog.start()
        said = ""
        for line in p.stdout:
            said += line
            if "[  FAILED  ]" in line:  # found: what else fails is not asked
                p.kill()
        p.wait()
        watchdog.cancel()
        p.stdout.close()
        return (None, "it hangs") if hangs.is_set() else (p.returncode, self.reason(said))

    def all_found(self, target, mutants, seeds):
        self.commands = commands()
        only = os.environ.get("MUTANTS")
        chosen = {k: v for k, v in mutants.items() if not only or k in only.split(",")}
        if not chosen:
            self.skipTest("MUTANTS names none of these")
        with tempfile.TemporaryDirectory(prefix="glia-mutants-") as folder:
            status, said = self.run_test(os.path.join(BUILD, target), seeds[0])
            self.assertEqual(status, 0, "the test fails without a mutant: " + said)
            for name, mutant in chosen.items():
                with self.subTest(name):
                    program = self.build(folder, target, mutant)
                    for seed in seeds:
                        status, said = self.run_test(program, seed)
                        print("%s: %sstatus %s: %s" % (name, "seed %s: " % seed if seed else "", status, said.strip()),
                              flush=True)
                        if status != 0:
                            break
                    self.assertNotEqual(status, 0, "no test finds it")

    def test_every_mutant_is_found(self):
        self.all_found(SOAK, MUTANTS, SEEDS)

    def test_every_mutant_of_interventions_is_found(self):
        self.all_found(EDIT, EDIT_MUTANTS, (None,))

    def test_every_mutant_of_attention_is_found(self):
        self.all_found(ATTENTION_EDIT, ATTENTION_EDIT_MUTANTS, (None,))

    def test_every_mutant_of_the_prompt_cache_is_found(self):
        self.all_found(PREFIX, PREFIX_MUTANTS, (None,))

    def test_every_mutant_of_staging_is_found(self):
        self.all_found(STAGING, STAGING_MUTANTS, (None,))

    def test_every_mutant_of_early_ends_is_found(self):
        self.all_found(ENDS, ENDS_MUTANTS, (None,))


if __name__ == "__main__":
    unittest.main()
