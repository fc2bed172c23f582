"""The same harvest by others, on this machine's CPU: transformers with forward hooks, TransformerLens, and Glia, one after
another in rounds of one run.

    PYTHON-WITH-TORCH bench/peer_harvest.py --glia build/glia --model SmolLM2-135M.gguf [--rounds 3] [--tokens 4096]

Needs torch, transformers, transformer_lens (4 or newer), gguf, safetensors; no part of the repository's tests.  The peers
compute with the file's weights as float32, Glia with the file.  Everybody runs the same token ids in pieces and writes
resid_pre of all layers as safetensors to the same disk."""
import os
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench_harvest  # noqa: E402

BATCH = 8


def write(folder, i, tensors):
    from safetensors.torch import save_file
    path = os.path.join(folder, "shard-%d.safetensors" % i)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    os.remove(path)


def weights(model, work):
    """The GGUF file's weights as plain float32 in transformers' folder format."""
    import torch
    import transformers
    folder, base = os.path.join(work, "hf"), (os.path.dirname(model), os.path.basename(model))
    hf = transformers.AutoModelForCausalLM.from_pretrained(base[0], gguf_file=base[1], dtype=torch.float32)
    del hf.config.quantization_config
    plain = type(hf)(hf.config)
    plain.load_state_dict(hf.state_dict())
    plain.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base[0], gguf_file=base[1]).save_pretrained(folder)
    return folder


def transformers_peer(folder):
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    held = {}
    for i, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(lambda m, args, kwargs, i=i: held.__setitem__(
            "resid_pre.%d" % i, (args[0] if args else kwargs["hidden_states"]).detach().flatten(0, 1)), with_kwargs=True)

    def run(pieces, out):
        with torch.inference_mode():
            for k in range(0, len(pieces), BATCH):
                model.model(torch.tensor(pieces[k:k + BATCH]), use_cache=False)  # without the output matrix, as a harvest
                write(out, k, held)
    return run


def lens_peer(folder):
    import torch
    import transformers
    from transformer_lens import TransformerBridge
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model = TransformerBridge.boot_transformers(folder, hf_model=hf, device="cpu",
                                                tokenizer=transformers.AutoTokenizer.from_pretrained(folder))

    def run(pieces, out):
        with torch.inference_mode():
            for k in range(0, len(pieces), BATCH):
                _, cache = model.run_with_cache(torch.tensor(pieces[k:k + BATCH]),
                                                names_filter=lambda n: n.endswith("hook_resid_pre"))
                write(out, k, {n: v.flatten(0, 1) for n, v in cache.items()})
    return run


def main():
    a = bench_harvest.options(4096).parse_args()
    pieces = bench_harvest.random_pieces(a.tokens, a.piece)
    times = {"Glia": [], "transformers with hooks": [], "TransformerLens": []}
    with (tempfile.TemporaryDirectory() as d,
          bench_harvest.serving(a.glia, a.model, d, "--parallel", str(BATCH), "--batch", "2048", "--threads",
                                str(os.cpu_count())) as (_, port)):
        folder = weights(a.model, d)
        peers = {"transformers with hooks": transformers_peer(folder), "TransformerLens": lens_peer(folder)}
        peers["Glia"] = lambda x, folder: bench_harvest.harvest(port, x, "resid_pre@all")[0]
        for run in peers.values():
            run(pieces[:BATCH], d)
        for i in range(a.rounds):
            for name in sorted(peers, reverse=i % 2):
                t = time.monotonic()
                by_server = peers[name](pieces, d)
                times[name].append(by_server or time.monotonic() - t)
                print("%s: %.0f tokens/s" % (name, len(pieces) * a.piece / times[name][-1]), file=sys.stderr)
    print("resid_pre of all layers, float32, to disk; %d tokens in pieces of %d, %d cores" % (a.tokens, a.piece, os.cpu_count()))
    for name, t in times.items():
        ratio = statistics.median(x / g for x, g in zip(t, times["Glia"]))
        print("%-24s %6.0f tokens/s   Glia is %.2f times as fast" % (name, len(pieces) * a.piece / statistics.median(t), ratio))


if __name__ == "__main__":
    main()
