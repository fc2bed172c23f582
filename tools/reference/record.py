"""record.py - every point of one forward pass of a transformers model, named and ordered as Glia names and orders them.

Owns the knowledge of where each point lies in each transformers class.  Values are what transformers computes: inputs and
outputs of its modules, arguments of its own RoPE, attention and convolution functions.  Only three points are computed
here, each from the family's own weights and checked against what transformers made of it: the chosen experts one by one
(their weighted sum must be the block's), head outputs (their sum must be the projection's), softmax inputs (their softmax
must be the probabilities).
"""
import importlib
import re

import torch

import families
import mktiny

# Where things are in a decoder layer.  "a.b" walks attributes; a tuple lists alternatives (layers of one model differ).
LLAMA = dict(layers="model.layers", norm="model.norm", attn="self_attn", o="o_proj", attn_norm="input_layernorm",
             attn_post=None, mlp_norm="post_attention_layernorm", mlp_post=None, mlp="mlp", gate="gate_proj", up="up_proj",
             down="down_proj", q_norm="q_norm", k_norm="k_norm", q="q_proj", k="k_proj", router="gate", experts="experts",
             shared=("shared_experts", "shared_expert"), mixer=None)
SANDWICH = dict(attn_post="post_attention_layernorm", mlp_norm="pre_feedforward_layernorm", mlp_post="post_feedforward_layernorm")
PARALLEL = dict(mlp_norm=None)
PLACES = {
    "phi3": dict(gate_up="gate_up_proj", gate=None, up=None),
    "olmo2": dict(attn_norm=None, attn_post="post_attention_layernorm", mlp_norm=None, mlp_post="post_feedforward_layernorm",
                  mid="computed"),
    "cohere": PARALLEL, "cohere2": PARALLEL,
    "gpt-oss": dict(router="router"),
    "gemma2": SANDWICH, "gemma3": SANDWICH,
    "gpt2": dict(layers="transformer.h", norm="transformer.ln_f", attn="attn", o="c_proj", attn_norm="ln_1", mlp_norm="ln_2",
                 gate="c_fc", up=None, down="c_proj"),
    "gptneox": dict(layers="gpt_neox.layers", norm="gpt_neox.final_layer_norm", attn="attention", o="dense", mlp_norm=None,
                    gate="dense_h_to_4h", up=None, down="dense_4h_to_h"),
    "starcoder2": dict(gate="c_fc", up=None, down="c_proj"),
    "glm4": dict(gate_up="gate_up_proj", gate=None, up=None, attn_post="post_self_attn_layernorm",
                 mlp_norm="post_attention_layernorm", mlp_post="post_mlp_layernorm"),
    "phi2": dict(norm="model.final_layernorm", o="dense", mlp_norm=None, gate="fc1", up=None, down="fc2"),
    "falcon": dict(layers="transformer.h", norm="transformer.ln_f", attn="self_attention", o="dense", attn_norm="ln_attn", mlp_norm=None,
                   gate="dense_h_to_4h", up=None, down="dense_4h_to_h"),
    "nemotron": dict(gate="up_proj", up=None),
    "llama4": dict(mlp="feed_forward", router="router"),
    "dbrx": dict(layers="transformer.blocks", norm="transformer.norm_f", attn="norm_attn_norm.attn", o="out_proj",
                 attn_norm="norm_attn_norm.norm_1", mlp_norm="norm_attn_norm.norm_2", mlp="ffn", router="router"),
    "mamba": dict(layers="backbone.layers", norm="backbone.norm_f", attn=None, attn_norm="norm", mlp=None, mlp_norm=None,
                  mixer="mixer"),
    "mamba2": dict(layers="backbone.layers", norm="backbone.norm_f", attn=None, attn_norm="norm", mlp=None, mlp_norm=None,
                   mixer="mixer"),
    "falcon-h1": dict(norm="model.final_layernorm", mlp="feed_forward", mlp_norm="pre_ff_layernorm", mixer="mamba", both=True),
    "jamba": dict(norm="model.final_layernorm", mlp="feed_forward", mlp_norm="pre_ff_layernorm", mixer="mamba", router="router"),
    "lfm2": dict(norm="model.embedding_norm", o="out_proj", attn_norm="operator_norm", mlp="feed_forward", mlp_norm="ffn_norm",
                 gate="w1", up="w3", down="w2", q_norm="q_layernorm", k_norm="k_layernorm", mixer="conv"),
    "qwen3next": dict(mixer="linear_attn"),
    "granitemoe": dict(mlp="block_sparse_moe", router="router", shared=None, sibling="shared_mlp"),
    "arcee": dict(gate="up_proj", up=None),
    "bamba": dict(norm="model.final_layernorm", mlp="feed_forward", mlp_norm="pre_ff_layernorm", mixer="mamba"),
    "nemotron_h": dict(norm="model.norm_f", attn_norm="norm", mlp_norm=None, mlp=None, attn=None, mixer="mixer", gate="up_proj", up=None),
    "bloom": dict(layers="transformer.h", norm="transformer.ln_f", attn="self_attention", o="dense", gate="dense_h_to_4h", up=None,
                  down="dense_4h_to_h"),
    "mpt": dict(layers="transformer.blocks", norm="transformer.norm_f", attn="attn", o="out_proj", attn_norm="norm_1",
                mlp_norm="norm_2", mlp="ffn", gate="up_proj", up=None, down="down_proj"),
}

PLACES["olmo3"], PLACES["lfm2moe"] = PLACES["olmo2"], PLACES["lfm2"]


def at(module, path):
    """The submodule at the first path that exists, None without one."""
    for one in (path if isinstance(path, tuple) else (path,)):
        found = module
        for part in one.split(".") if one else ():
            found = getattr(found, part, None)
        if one and found is not None:
            return found
    return None


def row_order(family, gguf):
    """Row of the transformers projection behind each row of a GGUF projection; None when they are the same."""
    tensors = mktiny.recipe(family)["tensors"]
    found = [t for t in tensors if re.fullmatch(gguf.replace(".", r"\.").replace("*", r"(\*|\d+)"), t)]
    if not found:
        return None
    ne, _, parts = tensors[found[0]]        # layers of one model are permuted alike
    rows = []
    for _, offsets, dims in parts:
        out = []
        for offset in offsets:
            mktiny.walk(range(ne[0] * ne[1]), offset, dims, out)
        rows += [x // ne[0] for x in out[::ne[0]]]
    return None if rows == list(range(len(rows))) else rows


def rows_of(value):
    """[rows, width] of a module's value: [1, T, width] or the first of a tuple."""
    value = value[0] if isinstance(value, tuple) else value
    return value.reshape(-1, value.shape[-1])


def heads_side_by_side(t):
    """[1, head, token, head_dim] -> [token, head * head_dim], index h * head_dim + i"""
    return t[0].transpose(0, 1).reshape(t.shape[2], -1)


class Recorder:
    """Hooks on one model; run(ids) gives {point or point.layer: float32 tensor}."""

    def __init__(self, family, model):
        self.family, self.model, self.config = family, model, model.config
        self.at = dict(LLAMA, **PLACES.get(family, {}))
        self.layers, self.norm = at(model, self.at["layers"]), at(model, self.at["norm"])
        self.code = importlib.import_module(type(model).__module__)
        self.points, self.handles, self.il = {}, [], 0
        self.order = {"q": row_order(family, "blk.*.attn_q.weight"), "k": row_order(family, "blk.*.attn_k.weight")}
        self.scale = getattr(model.config, "residual_multiplier", 1.0)

    # -- writing down

    def put(self, point, t, il=None, replace=False):
        name = point if il is None else "%s.%d" % (point, il)
        assert replace or name not in self.points, name
        self.points[name] = t.detach().clone().float()

    def put_qk(self, point, t, il):
        """[token, width] of q, k or one of their kin, columns in the order of the GGUF's rows."""
        order = self.order[point[0]]
        self.put(point, t if order is None else t[:, order], il)

    def on_input(self, module, f):
        self.handles.append(module.register_forward_pre_hook(lambda _, args, kwargs: f(args[0] if args else kwargs["hidden_states"]),
                                                             with_kwargs=True))

    def on_output(self, module, f):
        self.handles.append(module.register_forward_hook(lambda _, args, out: f(out)))

    def put_input(self, module, point, il):
        self.on_input(module, lambda x: self.put(point, rows_of(x), il))

    def put_output(self, module, point, il):
        self.on_output(module, lambda x: self.put(point, rows_of(x), il))

    # -- where to listen

    def places(self, layer):
        """Where things are in this layer; a layer of nemotron_h is one mixer, of any kind."""
        places = dict(LLAMA, **PLACES.get(self.family, {}))
        if self.family == "nemotron_h" and hasattr(layer.mixer, "o_proj"):
            places.update(attn="mixer", mixer=None)
        elif self.family == "nemotron_h" and hasattr(layer.mixer, "down_proj"):
            places.update(mlp="mixer", mixer=None, attn_norm=None)
        return places

    def listen(self):
        for il, layer in enumerate(self.layers):
            self.at = self.places(layer)
            self.handles.append(layer.register_forward_pre_hook(lambda *_, il=il: setattr(self, "il", il)))
            self.put_input(layer, "resid_pre", il)
            self.put_output(layer, "resid_post", il)
            self.listen_attention(layer, il)
            self.listen_mlp(layer, il)
        self.put_output(self.norm, "final_norm", None)

    def listen_attention(self, layer, il):
        where = self.at
        attn, mixer = at(layer, where["attn"]), at(layer, where["mixer"])
        if attn is not None and where.get("both"):
            mixer = None
        if where["attn_norm"]:
            self.put_output(at(layer, where["attn_norm"]), "attn_in", il)
        elif attn is not None:
            self.put_input(layer, "attn_in", il)
        if mixer is not None:
            self.put_input(mixer.out_proj, "conv_gated" if self.family.startswith("lfm2") else "ssm_out", il)
            self.put_output(mixer.out_proj, "attn_out", il)
        if attn is None:
            return
        o = at(attn, where["o"])
        self.put_input(o, "z_gated" if self.family == "qwen3next" else "z", il)
        if where.get("both"):
            self.put_input(layer.mamba.out_proj, "ssm_out", il)
        self.put_output(o, "attn_out", il)
        if where["attn_post"]:
            self.put_output(at(layer, where["attn_post"]), "attn_out_post", il)
        for one in "qk":
            norm = at(attn, where[one + "_norm"])
            if norm is not None and self.family != "llama4":
                flat = lambda x: (rows_of(x) if x.dim() == 3 else x.reshape(x.shape[1], -1) if x.shape[1] == self.n_rows
                                  else heads_side_by_side(x))
                self.on_input(norm, lambda x, one=one, flat=flat: self.put_qk(one + "_norm_in", flat(x), il))
        if self.family in ("phi2", "stablelm"):         # slice before their RoPE function sees the heads
            for one in "qk":
                self.on_output(at(attn, where[one]), lambda x, one=one: self.put_qk(one, rows_of(x), il))
        if self.family == "qwen3next":                  # the gate comes out of the query projection, head by head
            def gate(x):
                halves = x.reshape(x.shape[1], -1, 2, attn.head_dim)
                self.put("attn_gate", halves[:, :, 1].sigmoid().reshape(x.shape[1], -1), il)
            self.on_output(attn.q_proj, gate)
        if self.family == "mpt":
            def thirds(x):
                for name, t in zip(("q", "k", "value"), rows_of(x).chunk(3, dim=-1)):
                    self.put(name, t, il)
            self.on_output(attn.Wqkv, thirds)
        if self.family in ("falcon", "bloom", "mpt"):   # compute attention in line: its probabilities come back with the output
            self.on_output(attn, lambda out: self.put("attn_probs", out[1][0], il))

    def listen_mlp(self, layer, il):
        where = self.at
        mlp = at(layer, where["mlp"])
        if mlp is None:
            return
        if where["mlp_norm"]:
            if not isinstance(at(layer, where["mlp_norm"]), type(None)):
                self.put_input(at(layer, where["mlp_norm"]), "resid_mid", il)
        self.put_input(mlp, "mlp_in", il)
        sibling = at(layer, where.get("sibling"))
        if self.family in ("bloom", "mpt"):             # their MLP adds the residual itself
            self.put_output(at(mlp, where["down"]), "mlp_out", il)
        elif sibling is None:
            self.put_output(mlp, "mlp_out", il)
        if where["mlp_post"]:
            self.put_output(at(layer, where["mlp_post"]), "mlp_out_post", il)
        experts = at(mlp, where["experts"])
        if experts is not None:
            self.listen_experts(mlp, experts, sibling, il)
            return
        gate_up = at(mlp, where.get("gate_up"))
        if gate_up is not None:
            def halves(x):
                a, b = rows_of(x).chunk(2, dim=-1)
                self.put("mlp_pre", a, il)
                self.put("linear", b, il)
            self.on_output(gate_up, halves)
        else:
            self.put_output(at(mlp, where["gate"]), "mlp_pre", il)
            if where["up"]:
                self.put_output(at(mlp, where["up"]), "linear", il)
        self.put_input(at(mlp, where["down"]), "mlp_act", il)

    # -- experts

    def listen_experts(self, mlp, experts, sibling, il):
        self.on_output(at(mlp, self.at["router"]),
                       lambda x: self.put("router_logits", rows_of(x[1] if self.family == "llama4" else x), il))
        if self.family == "llama4":
            self.handles.append(mlp.register_forward_hook(lambda m, args, out: self.put_llama4(m, rows_of(args[0]), out, il)))
            return

        bias = getattr(mlp, "expert_bias", getattr(at(mlp, self.at["router"]), "e_score_correction_bias", None))

        def run(_, args, kwargs, out):
            x, index, weight = (list(args) + list(kwargs.values()))[:3]
            order = self.rank(bias, index, weight, il).sort(dim=-1, descending=True).indices
            self.put_experts(experts, rows_of(x), index.gather(1, order), weight.gather(1, order), rows_of(out), il)
        self.handles.append(experts.register_forward_hook(run, with_kwargs=True))
        if sibling is not None:
            self.put_output(sibling, "shared_expert_out", il)
        shared = at(mlp, self.at["shared"])
        if shared is not None:
            gate = getattr(mlp, "shared_expert_gate", None)

            def put_shared(m, args, out):
                g = gate(rows_of(args[0])).sigmoid() if gate is not None else 1.0
                self.put("shared_expert_out", g * rows_of(out), il)
            self.handles.append(shared.register_forward_hook(put_shared))

    def rank(self, bias, index, weight, il):
        """What llama.cpp sorts the chosen experts by: the weight, or the score that a bias was added to for choosing."""
        if bias is None:
            return weight
        return (self.points["router_logits.%d" % il].sigmoid() + bias).gather(1, index)

    def put_experts(self, experts, x, index, weight, total, il):
        """The chosen experts one by one, in the order of their weights; together they must make `total`."""
        parts = {"expert_pre": [], "expert_linear": [], "expert_act": [], "expert_out": []}
        for u in range(index.shape[1]):
            made = [self.one_expert(experts, x[t], int(index[t, u])) for t in range(x.shape[0])]
            for i, part in enumerate(parts.values()):
                part.append(torch.stack([m[i] for m in made]))
        out = sum(weight[:, u, None] * part for u, part in enumerate(parts["expert_out"]))
        assert (out - total).abs().max() < 1e-5 * total.abs().max(), "experts do not add up"
        self.put("expert_indices", index, il)
        self.put("expert_weights", weight, il)
        for point, part in parts.items():
            self.put(point, torch.cat(part, dim=-1), il)
        self.put("moe_out", total, il)

    def one_expert(self, experts, x, e):
        """(before the activation, other branch, after both, output) of expert e"""
        if self.family == "gpt-oss":
            both = x @ experts.gate_up_proj[e] + experts.gate_up_proj_bias[e]
            act = experts._apply_gate(both)
            return both[::2], both[1::2], act, act @ experts.down_proj[e] + experts.down_proj_bias[e]
        if self.family == "dbrx":
            m = experts.mlp
            w1, v1, w2 = (w.view(m.moe_num_experts, m.ffn_hidden_size, -1)[e] for w in (m.w1, m.v1, m.w2))
            gate, up = w1 @ x, v1 @ x
            act = m.activation_fn(gate) * up
            return gate, up, act, act @ w2
        gate, up = (experts.gate_up_proj[e] @ x).chunk(2)
        act = experts.act_fn(gate) * up
        return gate, up, act, experts.down_proj[e] @ act

    def put_llama4(self, mlp, x, out, il):
        """llama4 weights an expert's input, not its output."""
        logits = mlp.router.weight @ x.T
        weight, index = logits.T.topk(mlp.top_k, dim=-1)
        weight = weight.sigmoid()
        gates, ups, acts, outs = [], [], [], []
        for t in range(x.shape[0]):
            e = int(index[t, 0])
            gate, up = ((x[t] * weight[t, 0]) @ mlp.experts.gate_up_proj[e]).chunk(2)
            act = mlp.experts.act_fn(gate) * up
            gates.append(gate), ups.append(up), acts.append(act), outs.append(act @ mlp.experts.down_proj[e])
        shared, moe = mlp.shared_expert(x), torch.stack(outs)
        assert (moe + shared - rows_of(out)).abs().max() < 1e-5
        for point, value in (("expert_indices", index), ("expert_weights", weight), ("expert_pre", torch.stack(gates)),
                             ("expert_linear", torch.stack(ups)), ("expert_act", torch.stack(acts)), ("expert_out", moe),
                             ("moe_out", moe), ("shared_expert_out", shared)):
            self.put(point, value, il)

    # -- functions of the modelling file that are listened to while the pass runs

    def rope(self, plain):
        def call(q, k, *args, **kwargs):
            q_out, k_out = plain(q, k, *args, **kwargs)
            if "q.%d" % self.il not in self.points and self.family not in ("phi2", "stablelm"):
                self.put_qk("q", heads_side_by_side(q), self.il)
                self.put_qk("k", heads_side_by_side(self.kv_heads(k)), self.il)
            if self.family == "falcon":
                self.put_qk("q_rot", heads_side_by_side(q_out), self.il)
                self.put_qk("k_rot", heads_side_by_side(self.kv_heads(k_out)), self.il)
                self.falcon = q_out, k_out
            self.roped = self.il
            return q_out, k_out
        return call

    def rope_llama4(self, plain):
        """[1, token, head, head_dim]; its norm comes after RoPE."""
        def call(q, k, *args):
            out = plain(q, k, *args)
            for one, before, after in (("q", q, out[0]), ("k", k, out[1])):
                flat = lambda t: t.reshape(t.shape[1], -1)
                self.put_qk(one, flat(before), self.il)
                self.put_qk(one + "_rot", flat(after), self.il)
                self.put_qk(one + "_norm_in", flat(after), self.il)
            self.roped = self.il
            return out
        return call

    def kv_heads(self, t):
        """falcon repeats keys and values for every query head before anything else sees them."""
        return t[:, ::t.shape[1] // self.config.num_kv_heads] if self.family == "falcon" else t

    def attention(self, plain):
        def call(module, query, key, value, mask, scaling=None, softcap=None, **kwargs):
            il = self.il
            if self.family != "deepseek2":
                if "q.%d" % il not in self.points:
                    self.put_qk("q", heads_side_by_side(query), il)
                    self.put_qk("k", heads_side_by_side(key), il)
                if self.roped == il and self.family != "llama4":
                    self.put_qk("q_rot", heads_side_by_side(query), il)
                    self.put_qk("k_rot", heads_side_by_side(key), il)
            if self.family != "deepseek2":
                self.put("value", heads_side_by_side(value), il)
            if softcap is not None:
                kwargs["softcap"] = softcap
            out, probs = plain(module, query, key, value, mask, scaling=scaling, **kwargs)
            self.put("attn_probs", probs[0], il)
            self.put_scores(query, key, scaling, softcap, mask[0] == 0, getattr(module, "sinks", None), probs[0], il)
            if self.family == "qwen3next":
                self.put("z", rows_of(out.reshape(1, out.shape[1], -1)), il)
            return out, probs
        return call

    def put_scores(self, query, key, scale, softcap, visible, sinks, probs, il):
        scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(2, 3) * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        logits = scores[0].masked_fill(~visible, -torch.inf)
        if sinks is not None:
            logits = torch.cat([logits, sinks.reshape(-1, 1, 1).expand(-1, logits.shape[1], 1)], dim=-1)
        assert (logits.softmax(-1)[..., :probs.shape[-1]] - probs).abs().max() < 1e-5, "scores are not the softmax's"
        self.put("attn_scores", scores[0] * visible, il)

    def conv(self, plain):
        def call(*args, **kwargs):
            out = plain(*args, **kwargs)
            first = out[0] if isinstance(out, tuple) else out
            self.put("conv_out", first[0].transpose(0, 1), self.il)
            return out
        return call

    def split(self, plain):
        def call(*args):
            q, k, v = plain(*args)
            if self.family == "bloom":                  # [1, head, token, head_dim]
                for name, t in (("q", q), ("k", k), ("value", v)):
                    self.put(name, heads_side_by_side(t), self.il)
            else:                                       # [1, token, head, head_dim]
                self.put("value", self.kv_heads(v.transpose(1, 2))[0].transpose(0, 1).reshape(v.shape[1], -1), self.il)
            return q, k, v
        return call

    # -- one pass

    def run(self, ids):
        self.n_rows, self.roped = len(ids), -1
        self.listen()
        patches = [("eager_attention_forward", self.attention), ("apply_rotary_pos_emb", self.rope), ("causal_conv1d_fn", self.conv)]
        if self.family == "llama4":
            patches.append(("apply_rotary_emb", self.rope_llama4))
        plain = {name: getattr(self.code, name) for name, _ in patches if hasattr(self.code, name)}
        for name, wrap in patches:
            if name in plain:
                setattr(self.code, name, wrap(plain[name]))
        if self.family in ("falcon", "bloom"):
            for layer in self.layers:
                attn = at(layer, self.at["attn"])
                name = "_split_heads" if hasattr(attn, "_split_heads") else "_reshape"
                setattr(attn, name, self.split(getattr(attn, name)))
        try:
            with torch.no_grad():
                self.put("embeddings", self.model.get_input_embeddings().weight[torch.tensor(ids)])
                self.put("lm_head", rows_of(self.model(torch.tensor([ids]), use_cache=False).logits))
        finally:
            for name, function in plain.items():
                setattr(self.code, name, function)
            for handle in self.handles:
                handle.remove()
        with torch.no_grad():
            for il in range(len(self.layers)):
                self.derive(il)
        return self.points

    def derive(self, il):
        """Points that follow from others, and the sums that must hold."""
        p, where = self.points, self.places(self.layers[il])
        get = lambda name: p.get("%s.%d" % (name, il))
        attn, o = at(self.layers[il], where["attn"]), None
        if where.get("sibling"):
            self.put("mlp_out", get("moe_out") + get("shared_expert_out"), il)
        if where.get("both"):                           # what attention and state space add together
            self.put("attn_out_post", get("resid_mid") - get("resid_pre"), il)
        for part in ("attn", "mlp"):
            out = get(part + "_out")
            if out is not None and get(part + "_out_post") is None:
                self.put(part + "_out_post", out * self.scale, il)
        if where.get("mid") == "computed":
            self.put("resid_mid", get("resid_pre") + get("attn_out_post"), il)
        # the sums
        close = lambda a, b: (a - b).abs().max() <= 1e-5 * b.abs().max()
        mid, attn_post, mlp_post = get("resid_mid"), get("attn_out_post"), get("mlp_out_post")
        if mid is not None:
            assert close(get("resid_pre") + attn_post, mid), "resid_mid"
            assert close(mid + mlp_post, get("resid_post")), "resid_post"
        else:
            terms = [t for t in (get("resid_pre"), attn_post, mlp_post) if t is not None]
            assert close(sum(terms), get("resid_post")), "resid_post"
        if get("shared_expert_out") is not None:
            assert close(get("moe_out") + get("shared_expert_out"), get("mlp_out")), "shared expert"
        # heads through their part of the output projection
        o = at(attn, where["o"]) if attn is not None else None
        z = get("z_gated") if get("z_gated") is not None else get("z")
        if o is not None and z is not None:
            weight = o.weight.T if self.family == "gpt2" else o.weight
            n = families.N_HEAD
            parts = [z[:, h * z.shape[1] // n:(h + 1) * z.shape[1] // n] @
                     weight[:, h * z.shape[1] // n:(h + 1) * z.shape[1] // n].T for h in range(n)]
            bias = o.bias if getattr(o, "bias", None) is not None else 0
            assert close(sum(parts) + bias, get("attn_out")), "head outputs"
            self.put("attn_head_out", torch.cat(parts, dim=-1), il)
        if self.family == "falcon":
            q, k = p["q_rot.%d" % il], p["k_rot.%d" % il]
            n_kv, hd = self.config.num_kv_heads, q.shape[1] // families.N_HEAD
            heads = lambda t, n: t.reshape(1, t.shape[0], n, hd).transpose(1, 2)
            visible = torch.tril(torch.ones(q.shape[0], q.shape[0], dtype=torch.bool))
            self.put_scores(heads(q, families.N_HEAD), heads(k, n_kv), hd ** -0.5, None, visible, None, p["attn_probs.%d" % il], il)
        self.put("lens_in", self.norm(get("resid_post")[None])[0], il)


def record(family, model, ids):
    """{point or point.layer: float32 array} of one forward pass over ids, without cache."""
    points = Recorder(family, model).run(ids)
    points = {re.sub("^conv_gated", "_drop", n): t for n, t in points.items()}
    return {n: t.contiguous().numpy().astype("<f4") for n, t in points.items() if not n.startswith("_drop")}
