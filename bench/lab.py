#!/usr/bin/env python3
"""lab.py - sweeps beside TransformerLens: the same model, prompts and places, one thread each, numbers compared.

    PYTHONPATH=.deps/src/llama.cpp/gguf-py VENV/bin/python bench/lab.py --model FILE.gguf [--glia build/glia] [--out bench/LAB.md]

Needs an environment with transformer_lens, torch and transformers.  The file's weights are dequantized once, into a GGUF file
and into a transformers model (WORK folder), so that both compute with the same float32 numbers.  Times are seconds of the
processor: they mean the same on a machine that has other things to do.
"""
import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
ANSWER, WRONG = " Mary", " John"
PLACES = (("resid_pre", "position"), ("attn_out", "position"), ("mlp_out", "position"), ("z", "head"))


def dequantized(model, out):
    """The same file with every tensor in float32."""
    import gguf
    import numpy
    if os.path.exists(out):
        return
    reader = gguf.GGUFReader(model)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out + ".part", arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type", "general.quantization_version"):
            continue
        kind = field.types[0]
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_key_value(name, field.contents(), kind, field.types[1])
        else:
            writer.add_key_value(name, field.contents(), kind)
    for t in reader.tensors:
        x = gguf.quants.dequantize(t.data, t.tensor_type).astype(numpy.float32)
        writer.add_tensor(t.name, x.reshape(list(reversed([int(d) for d in t.shape]))))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.rename(out + ".part", out)


def glia(binary, model, keep, *args):
    """(result, seconds of the processor); kept in the file `keep` for a second call."""
    if os.path.exists(keep):
        with open(keep) as f:
            return json.load(f)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([binary, "sweep", "--model", model, "--threads", "1", "--flash-attn", "off", "--cache-type", "f32", "--json",
                          "--clean", CLEAN, "--corrupted", CORRUPTED, "--answer", ANSWER, "--wrong", WRONG, *args],
                         capture_output=True, text=True, check=True, env=dict(os.environ, OMP_WAIT_POLICY="passive"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    got = json.loads(out.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with open(keep, "w") as f:
        json.dump(got, f)
    return got


class Lens:
    def __init__(self, model, work):
        import torch
        import transformers
        from transformer_lens import TransformerBridge
        torch.set_num_threads(1)
        self.torch = torch
        folder = os.path.join(work, "hf")
        if not os.path.exists(os.path.join(folder, "config.json")):
            hf = transformers.AutoModelForCausalLM.from_pretrained(os.path.dirname(model), gguf_file=os.path.basename(model),
                                                                   dtype=torch.float32, attn_implementation="eager")
            del hf.config.quantization_config            # it says "gguf": the weights are plain float32 by now
            plain = type(hf)(hf.config)
            plain.load_state_dict(hf.state_dict())
            plain.save_pretrained(folder)
            transformers.AutoTokenizer.from_pretrained(os.path.dirname(model), gguf_file=os.path.basename(model)).save_pretrained(folder)
        hf = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.m = TransformerBridge.boot_transformers(folder, hf_model=hf, tokenizer=tokenizer, device="cpu")

    def name(self, component, layer):
        return "blocks.%d.%s" % (layer, {"resid_pre": "hook_resid_pre", "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out",
                                         "z": "attn.hook_z"}[component])

    def sweep(self, clean, corrupted, answer, wrong, layers):
        """{component: {(layer, place): value}}, seconds of the processor for the patched runs."""
        torch = self.torch
        clean, corrupted = torch.tensor([clean]), torch.tensor([corrupted])
        names = [self.name(c, l) for c, _ in PLACES for l in layers]
        n_heads = self.m.cfg.n_heads
        out = {}
        with torch.inference_mode():
            _, cache = self.m.run_with_cache(clean, names_filter=lambda n: n in names)
            began = time.process_time()
            for c, by in PLACES:
                for l in layers:
                    kept = cache[self.name(c, l)]
                    for k in range(clean.shape[1] if by == "position" else n_heads):
                        def put(x, hook, k=k):
                            x = x.clone()
                            if by == "position":
                                x[:, k] = kept[:, k]
                            else:
                                view = x.reshape(x.shape[0], x.shape[1], n_heads, -1)
                                view[:, :, k] = kept.reshape(view.shape)[:, :, k]
                                x = view.reshape(x.shape)
                            return x
                        logits = self.m.run_with_hooks(corrupted, fwd_hooks=[(self.name(c, l), put)])[0, -1]
                        out.setdefault(c, {})[(l, k)] = float(logits[answer] - logits[wrong])
            return out, time.process_time() - began


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("--model", required=True)
    ap.add_argument("--glia", default="build/glia")
    ap.add_argument("--work", default="/tmp/glia-lab")
    ap.add_argument("--lens-layers", type=int, default=3, help="TransformerLens runs so many layers, spread over the model")
    ap.add_argument("--parallel", default="8")
    ap.add_argument("--out")
    a = ap.parse_args()
    os.makedirs(a.work, exist_ok=True)
    f32 = os.path.join(a.work, "f32.gguf")
    dequantized(a.model, f32)
    sweeps = ["--sweeps", ",".join("%s:%s" % p for p in PLACES), "--parallel", a.parallel]
    rows, results = [], {}
    for label, path in (("float32", f32), ("as it is", a.model)):
        kept = os.path.join(a.work, "glia-%s-%%s.json" % label.replace(" ", "-"))
        _, load = glia(a.glia, path, kept % "load", "--sweeps", "resid_pre", "--layers", "0", "--positions", "0", "--parallel", a.parallel)
        results[label], cpu = glia(a.glia, path, kept % "all", *sweeps)
        n = results[label]["interventions"]
        rows.append(("Glia, %s" % label, n["run"] + n["unchanged"], cpu - load))
    r = results["float32"]
    lens = Lens(a.model, a.work)
    n_layers = len(r["layers"])
    layers = [round(i * (n_layers - 1) / max(a.lens_layers - 1, 1)) for i in range(a.lens_layers)]
    ids = lambda key: [t["id"] for t in r[key]["tokens"]]
    got, cpu = lens.sweep(ids("clean"), ids("corrupted"), r["answer"][0]["id"], r["wrong"][0]["id"], layers)
    n = sum(len(x) for x in got.values())
    rows.append(("TransformerLens, float32", n, cpu))
    worst = max(abs(v - s["values"][l][k]) for s in r["sweeps"] for (l, k), v in got[s["component"]].items())
    span = abs(r["clean"]["value"] - r["corrupted"]["value"])
    each = cpu / n
    lines = ["# Sweeps beside TransformerLens", "", "Written by bench/lab.py; do not edit.", "",
             "| | |", "|---|---|", "| date | %s |" % time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
             "| machine | %s, %d cores, load %.1f |" % (platform.processor() or platform.machine(), os.cpu_count(), os.getloadavg()[0]),
             "| model | %s, %d layers; dequantized to float32 where it says so |" % (os.path.basename(a.model), n_layers),
             "| prompts | %d tokens; %s / %s |" % (len(ids("clean")), CLEAN, CORRUPTED),
             "| places | %s; Glia every layer, TransformerLens layers %s |" % (", ".join("%s by %s" % p for p in PLACES), ", ".join(map(str, layers))),
             "| measured | seconds of the processor, one thread each, loading taken off |", "",
             "| program | places | s | ms each | places a second | TransformerLens takes |", "|---|---|---|---|---|---|"]
    for name, count, seconds in rows:
        lines.append("| %s | %d | %.2f | %.2f | %.1f | %.1f × |" % (name, count, seconds, 1e3 * seconds / count, count / seconds, each / (seconds / count)))
    shared = r["interventions"]
    lines += ["", "Largest difference of a number between the two, in float32: %.2g of a span of %.2f (clean %.3f, corrupted %.3f)." %
              (worst, span, r["clean"]["value"], r["corrupted"]["value"]),
              "Of Glia's places %d lie before the prompts' first difference and are known without a run; of the prompt tokens of the others %d %% came "
              "from the prompt cache." % (shared["unchanged"], round(100 * shared["tokens_shared"] / max(1, shared["tokens_shared"] + shared["tokens_computed"])))]
    print("\n".join(lines))
    if a.out:
        with open(a.out, "w") as f:
            f.write("\n".join(lines) + "\n")
    return 0 if worst < 1e-2 else 1


if __name__ == "__main__":
    sys.exit(main())
