"""weights.py - mktiny's weights in a transformers model, and the greedy text they give."""
import numpy as np
import torch

import mktiny

N_GENERATE = 4                      # greedy tokens; the last one is never fed back
MIN_MARGIN = 0.01                   # least lead of a choice (token, expert) over the next: none may hang on rounding


def load(family, model, seed=None):
    """Put the weights of the recipe (or of another seed) into the model."""
    state = {name: torch.tensor(np.array(mktiny.hf_weight(family, name, seed)).reshape(entry[0]))
             for name, entry in mktiny.hf_parameters(family).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    buffers = {name for name, _ in model.named_buffers()}
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    assert set(missing) <= tied | buffers and not unexpected, (missing, unexpected)
    model.tie_weights()


def greedy(model, prompt, n=N_GENERATE):
    """(n greedy ids, the least lead of a token over the next one and of a chosen expert over the first one left out)"""
    leads, handles, ids = [], [], list(prompt)

    def on_router(module, args, out):
        logits = next(t for t in (out if isinstance(out, tuple) else (out,)) if t.isfinite().all() and (t < 0).any())
        top = logits.reshape(-1, logits.shape[-1]).sort(dim=-1, descending=True).values
        k = n_chosen(model.config)
        leads.append(float((top[:, k - 1] - top[:, k]).min()))

    for name, module in model.named_modules():
        if type(module).__name__.endswith("Router"):
            handles.append(module.register_forward_hook(on_router))
    with torch.no_grad():
        for _ in range(n):
            top = model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
            leads.append(float(top.values[0] - top.values[1]))
            ids.append(int(top.indices[0]))
    for handle in handles:
        handle.remove()
    return ids[len(prompt):], min(leads)


def n_chosen(config):
    """Experts per token."""
    return config.ffn_config.moe_top_k if hasattr(config, "ffn_config") else config.num_experts_per_tok
