"""The same harvest by others, on this machine's CPU: transformers with forward hooks, TransformerLens, and Glia, one after
another in rounds of one run.

    PYTHON-WITH-TORCH bench/peer_harvest.py --glia build/glia --model SmolLM2-135M.gguf [--rounds 3] [--tokens 4096]

Needs torch, transformers, transformer_lens, safetensors (no part of the repository's tests).  The peers get random float32
weights of SmolLM2-135M's shapes, since speed does not depend on them and no hub is asked; Glia gets the file.  Everybody runs the
same token ids in pieces of 256 and writes resid_pre of all 30 layers as safetensors to the same disk."""
import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench_harvest  # noqa: E402

SHAPE = dict(d=576, layers=30, heads=9, kv=3, mlp=1536, vocab=49152)
BATCH = 8


def write(folder, i, tensors):
    from safetensors.torch import save_file
    path = os.path.join(folder, "shard-%d.safetensors" % i)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    os.remove(path)


def transformers_peer():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    s = SHAPE
    model = LlamaForCausalLM(LlamaConfig(hidden_size=s["d"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"],
                                         num_key_value_heads=s["kv"], intermediate_size=s["mlp"], vocab_size=s["vocab"],
                                         max_position_embeddings=2048, tie_word_embeddings=True)).eval()
    held = {}
    for i, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(lambda m, args, kwargs, i=i: held.__setitem__(
            "resid_pre.%d" % i, (args[0] if args else kwargs["hidden_states"]).detach().flatten(0, 1)), with_kwargs=True)

    def run(pieces, folder):
        with torch.inference_mode():
            for k in range(0, len(pieces), BATCH):
                model.model(torch.tensor(pieces[k:k + BATCH]))  # without the output matrix, as a harvest
                write(folder, k, held)
    return run


def lens_peer():
    import torch
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    s = SHAPE
    model = HookedTransformer(HookedTransformerConfig(
        d_model=s["d"], n_layers=s["layers"], n_heads=s["heads"], n_key_value_heads=s["kv"], d_head=s["d"] // s["heads"],
        d_mlp=s["mlp"], d_vocab=s["vocab"], n_ctx=2048, act_fn="silu", gated_mlp=True, normalization_type="RMS",
        positional_embedding_type="rotary", rotary_dim=s["d"] // s["heads"], final_rms=True, seed=0, device="cpu")).eval()

    def run(pieces, folder):
        with torch.inference_mode():
            for k in range(0, len(pieces), BATCH):
                _, cache = model.run_with_cache(torch.tensor(pieces[k:k + BATCH]), return_type=None,
                                                names_filter=lambda n: n.endswith("hook_resid_pre"))
                write(folder, k, {n: v.flatten(0, 1) for n, v in cache.items()})
    return run


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--glia", default="build/glia")
    p.add_argument("--model", required=True)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--tokens", type=int, default=4096)
    a = p.parse_args()
    rng = random.Random(1)
    pieces = [[rng.randint(1000, 40000) for _ in range(256)] for _ in range(a.tokens // 256)]
    times = {"Glia": [], "transformers with hooks": [], "TransformerLens": []}
    with tempfile.TemporaryDirectory() as d:
        port_file = os.path.join(d, "port")
        server = subprocess.Popen([a.glia, "serve", "--model", a.model, "--listen", "127.0.0.1:0", "--port-file", port_file,
                                   "--store", os.path.join(d, "store"), "--ctx", "1024", "--parallel", str(BATCH), "--batch",
                                   "2048", "--threads", str(os.cpu_count())], stdout=subprocess.DEVNULL)
        try:
            while not os.path.exists(port_file):
                time.sleep(0.05)
            port = int(open(port_file).read())
            peers = {"transformers with hooks": transformers_peer(), "TransformerLens": lens_peer()}
            peers["Glia"] = lambda x, folder: bench_harvest.harvest(port, x, "resid_pre@all")
            for run in peers.values():
                run(pieces[:BATCH], d)
            for i in range(a.rounds):
                for name in sorted(peers, reverse=i % 2):
                    t = time.monotonic()
                    peers[name](pieces, d)
                    times[name].append(time.monotonic() - t)
                    print("%s: %.0f tokens/s" % (name, len(pieces) * 256 / times[name][-1]), file=sys.stderr)
        finally:
            server.terminate()
            server.wait()
    print("resid_pre of all layers, float32, to disk; %d tokens in pieces of 256, %d cores" % (a.tokens, os.cpu_count()))
    for name, t in times.items():
        ratio = statistics.median(x / g for x, g in zip(t, times["Glia"]))
        print("%-24s %6.0f tokens/s   Glia is %.2f times as fast" % (name, len(pieces) * 256 / statistics.median(t), ratio))


if __name__ == "__main__":
    main()
