"""convert.py - a transformers model through llama.cpp's own converter, and the GGUF file it makes.

Only the tokenizer step is replaced.  Needs llama.cpp's source tree (conversion/, gguf-py/).
"""
import contextlib
import importlib
import io
import json
import logging
import sys
from pathlib import Path

import mktiny

ROOT = Path(__file__).resolve().parents[2]
LLAMA_CPP = ROOT / ".deps" / "src" / "llama.cpp"
logging.disable(logging.WARNING)
for _path in (LLAMA_CPP, LLAMA_CPP / "gguf-py"):
    sys.path.insert(0, str(_path))
gguf, conversion = importlib.import_module("gguf"), importlib.import_module("conversion")

# hyper-parameters that the converter still reads under names that transformers 5 dropped: {family: f(config) -> dict}
HPARAMS = {
    "gpt2": lambda c: {"n_ctx": c.n_positions},
    "cohere2": lambda c: {"rotary_pct": 1.0},
    "gptneox": lambda c: {"rotary_pct": c.rope_parameters["partial_rotary_factor"]},
}
# what the converter must not be told: {family: f(hyper-parameters) -> hyper-parameters}, before it looks at them
#   nemotron_h: transformers writes the fields of the MoE variant always, and MLP layers only under a name of its own
BEFORE = {
    "nemotron_h": lambda h: dict(
        {k: v for k, v in h.items() if not any(w in k for w in ("expert", "moe_", "group"))}, n_groups=h["n_groups"],
        hybrid_override_pattern="".join({"linear_attention": "M", "full_attention": "*", "mlp": "-"}[t]
                                        for t in h["layers_block_type"])),
}
# The converter leaves a default that the model does not have: keys added here, both to the recipe and to the comparison.
#   gemma3, cohere2 ...: every n-th layer attends globally; the default of llama.cpp would make none of three layers global
EXTRA_KEYS = {"gemma3": [["gemma3.attention.sliding_window_pattern", "UINT32", 3]]}


def converted(family, model, workdir):
    """Write workdir/converted.gguf and return ({key: (type names, value)}, {tensor: (ne, type name, numpy array)})."""
    base = conversion.get_model_class({"MptForCausalLM": "MPTForCausalLM"}.get(type(model).__name__, type(model).__name__))

    class Converter(base):
        model_arch = base.model_arch
        no_mtp = True                   # the tiny models have no extra prediction layers

        def set_vocab(self):
            tokens, types, merges = mktiny.tokenizer()
            w = self.gguf_writer
            w.add_tokenizer_model("gpt2")
            w.add_tokenizer_pre("gpt-2")
            w.add_token_list(tokens)
            w.add_token_types(types)
            w.add_token_merges(merges)
            w.add_bos_token_id(mktiny.BOS)
            w.add_eos_token_id(mktiny.IM_END)
            w.add_pad_token_id(mktiny.PAD)
            w.add_add_bos_token(False)
            w.add_add_eos_token(False)
            w.add_chat_template(mktiny.CHAT_TEMPLATE)

    hf_dir = Path(workdir) / "hf"
    model.save_pretrained(hf_dir)
    # some converters count the tokens here to drop padding rows of the embedding
    vocab = {token: i for i, token in enumerate(mktiny.tokenizer()[0])}
    (hf_dir / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))
    out = Path(workdir) / "converted.gguf"
    more = {}
    if family in BEFORE:
        more["hparams"] = BEFORE[family](conversion.ModelBase.load_hparams(hf_dir, False))
    converter = Converter(hf_dir, gguf.LlamaFileType.ALL_F32, out, **more)
    converter.hparams.update(HPARAMS.get(family, lambda c: {})(model.config))
    with contextlib.redirect_stderr(io.StringIO()):
        converter.write()
    return read(out)


def read(path):
    """({key: (type names, value)}, {tensor: (ne, type name, numpy array)}) of a GGUF file."""
    reader = gguf.GGUFReader(path)
    fields = {name: ([t.name for t in f.types[:2]], f.contents()) for name, f in reader.fields.items()
              if not name.startswith("GGUF.")}
    tensors = {t.name: ([int(n) for n in t.shape], t.tensor_type.name, t.data.copy().reshape(-1)) for t in reader.tensors}
    return fields, tensors
