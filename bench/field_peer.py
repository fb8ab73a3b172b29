"""Pull request 1855's model and training step in plain PyTorch: what the speed of the profiles field-1855 and record-h100x8 is measured
against. Written from the definitions in common/model/ops and common/plan, not from the C++ code. Rows are whole sequences, as PyTorch's fused
attention likes them best; matrices of one role lie in one tensor, so that Muon takes them in one batch. Shapes come from the
environment (NUM_LAYERS=…).

    python field_peer.py bench --tokens 4096 --seq 2048 --mode compile --dtype bf16
"""
import argparse
import functools
import math

import torch
import torch.nn.functional as F
from torch.nn import Parameter

import gpt_peer
from gpt_peer import rms, rotate

POLAR_EXPRESS = ((8.156554524902461, -22.48329292557795, 15.878769915207462), (4.042929935166739, -2.808917465908714, 0.5000178451051316),
                 (3.8916678022926607, -2.772484153217685, 0.5060648178503393), (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
                 (2.3465413258596377, -1.7097828382687081, 0.42323551169305323))  # arXiv 2505.16932


class Config(gpt_peer.Config):
    fields = dict(seed=42, vocab_size=8192, num_layers=11, model_dim=512, num_heads=8, num_kv_heads=4, mlp_mult=4.0, mlp_negative_slope=0.5,
                  rope_base=10000.0, rope_dims=16, logit_softcap=30.0, qk_gain_init=5.0, tied_embed_init_std=0.005, xsa_last_n=11, num_loops=2,
                  loop_start=3, loop_end=5, parallel_start_layer=8, gate_window=12, sparse_attn_gate_scale=0.5)

    def order(self, looped=True):
        """The layers of the first and of the second half of the visits."""
        layers = list(range(self.num_layers))
        if looped and self.num_loops > 0:
            segment = layers[self.loop_start:self.loop_end + 1]
            layers = layers[:self.loop_start] + segment * (self.num_loops + 1) + layers[self.loop_end + 1:]
        return layers[:len(layers) // 2], layers[len(layers) // 2:]


class Model(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, self.looped = c, True
        n, d, kv, hidden = c.num_layers, c.model_dim, c.num_kv_heads * c.model_dim // c.num_heads, int(c.mlp_mult * c.model_dim)
        matrices = lambda rows, columns: Parameter(torch.randn(n, rows, columns) / math.sqrt(columns))
        self.tok_emb = Parameter(torch.randn(c.vocab_size, d) * c.tied_embed_init_std)
        self.q, self.k, self.v, self.o = matrices(d, d), matrices(kv, d), matrices(kv, d), matrices(d, d)
        self.up, self.down = matrices(hidden, d), matrices(d, hidden)
        self.attn_scale, self.mlp_scale = Parameter(torch.ones(n, d)), Parameter(torch.ones(n, d))
        self.resid_mix = Parameter(torch.stack((torch.ones(d), torch.zeros(d))).repeat(n, 1, 1))
        self.q_gain = Parameter(torch.full((n, c.num_heads), c.qk_gain_init))
        self.attn_gate = Parameter(torch.zeros(n, c.num_heads, c.gate_window))
        skips = min(map(len, c.order()))
        self.skip_weights, self.skip_gates = Parameter(torch.ones(skips, d)), Parameter(torch.zeros(skips, d))
        self.post, self.resid = Parameter(torch.ones(n, 2, 2)), Parameter(torch.full((n, 2), 1.1))
        self.smear_window, self.smear_lambda = Parameter(torch.zeros(1, c.gate_window)), Parameter(torch.zeros(1))

    MATRICES = {"q": "attn.c_q.weight", "k": "attn.c_k.weight", "v": "attn.c_v.weight", "o": "attn.proj.weight", "up": "mlp.fc.weight",
                "down": "mlp.proj.weight"}
    VECTORS = {"attn_scale": "attn_scale", "mlp_scale": "mlp_scale", "resid_mix": "resid_mix", "q_gain": "attn.q_gain",
               "attn_gate": "attn.attn_gate_w"}
    OTHERS = {"tok_emb": "tok_emb.weight", "skip_weights": "skip_weights", "skip_gates": "skip_gates", "post": "parallel_post_lambdas",
              "resid": "parallel_resid_lambdas", "smear_window": "smear_gate.weight", "smear_lambda": "smear_lambda"}

    def checkpoint(self):
        """The parameters by their names in a checkpoint."""
        layers = {f"blocks.{i}.{name}": getattr(self, own)[i] for own, name in (self.MATRICES | self.VECTORS).items() for i in range(self.c.num_layers)}
        return layers | {name: getattr(self, own) for own, name in self.OTHERS.items()}

    @torch.no_grad()
    def load(self, checkpoint):
        own = self.checkpoint()
        assert own.keys() == checkpoint.keys(), own.keys() ^ checkpoint.keys()
        for name, tensor in own.items():
            tensor.copy_(checkpoint[name])

    def embeddings_to_bfloat16(self):
        self.tok_emb.data = self.tok_emb.data.bfloat16()

    def embed(self, ids):
        e = F.embedding(ids, self.tok_emb)
        gate = torch.sigmoid(F.linear(e[..., :self.c.gate_window], self.smear_window.to(e.dtype))) * self.smear_lambda.to(e.dtype)
        gate = gate * (ids != 1).unsqueeze(-1)  # 1 begins a document
        return rms(torch.cat((e[:, :1], e[:, 1:] + gate[:, 1:] * e[:, :-1]), dim=1))

    def attention(self, i, x, cos, sin):
        c, (b, t, _) = self.c, x.shape
        heads = lambda w: F.linear(x, w[i].to(x.dtype)).view(b, t, -1, c.model_dim // c.num_heads).transpose(1, 2)
        turned = lambda y: torch.cat((rotate(y[..., :c.rope_dims], cos, sin), y[..., c.rope_dims:]), dim=-1)
        q, k, v = turned(rms(heads(self.q))), turned(rms(heads(self.k))), heads(self.v)
        q = q * self.q_gain[i].to(q.dtype).view(1, -1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        if i >= c.num_layers - c.xsa_last_n:
            own = F.normalize(v, dim=-1).repeat_interleave(c.num_heads // c.num_kv_heads, dim=1)
            y = y - (y * own).sum(-1, keepdim=True) * own
        gate = torch.sigmoid(c.sparse_attn_gate_scale * F.linear(x[..., :c.gate_window], self.attn_gate[i].to(x.dtype)))
        y = y.transpose(1, 2) * gate.unsqueeze(-1)
        return self.attn_scale[i].to(x.dtype) * F.linear(y.reshape(b, t, -1), self.o[i].to(x.dtype))

    def mlp(self, i, x):
        h = F.leaky_relu(F.linear(x, self.up[i].to(x.dtype)), self.c.mlp_negative_slope).square()
        return self.mlp_scale[i].to(x.dtype) * F.linear(h, self.down[i].to(x.dtype))

    def forward(self, ids, targets):
        c = self.c
        rates = 1.0 / c.rope_base ** (torch.arange(0, c.rope_dims, 2, dtype=torch.float32) / c.rope_dims)
        angle = torch.outer(torch.arange(ids.size(1), dtype=torch.float32), rates)
        x = x0 = self.embed(ids)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = c.order(self.looped)
        kept, lane1 = [], None
        for place, i in enumerate(first + second):
            going_up = place - len(first)
            if going_up >= 0:
                if lane1 is None and i >= c.parallel_start_layer > 0:
                    lane1 = x
                if kept and going_up < len(self.skip_weights):
                    other = self.skip_weights[going_up].to(x.dtype) * kept.pop()
                    x = torch.lerp(other, x, torch.sigmoid(self.skip_gates[going_up]).to(x.dtype))
            mix, scale = self.resid_mix[i].to(x.dtype), 1.0 / math.sqrt(i + 1)
            mixed = mix[0] * x + mix[1] * x0
            a = self.attention(i, rms(mixed) * scale, cos, sin)
            if lane1 is None:
                x = mixed + a
                x = x + self.mlp(i, rms(x) * scale)
            else:
                m, post, resid = self.mlp(i, rms(lane1) * scale), self.post[i].to(x.dtype), self.resid[i].to(x.dtype)
                x, lane1 = resid[0] * x + post[0, 0] * a + post[1, 0] * m, resid[1] * lane1 + post[0, 1] * a + post[1, 1] * m
            if going_up < 0:
                kept.append(x)
        x = rms(x if lane1 is None else 0.5 * (x + lane1))
        logits = c.logit_softcap * torch.tanh(F.linear(x, self.tok_emb) / c.logit_softcap)
        return F.cross_entropy(logits.reshape(-1, c.vocab_size).float(), targets.reshape(-1))


def polar_express(g):
    """Of each matrix of the batch, its rows normalised first."""
    x = (g / g.norm(dim=-1, keepdim=True).clamp_min(1e-7)).bfloat16()
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, k in POLAR_EXPRESS:
        s = x @ x.mT
        x = a * x + (b * s + k * (s @ s)) @ x
    return (x.mT if tall else x) * max(1, g.size(-2) / g.size(-1)) ** 0.5


class Optimizers:
    def __init__(self, model):
        named = dict(model.named_parameters())
        self.model = model
        self.matrices = [named[name] for name in model.MATRICES]
        self.momenta = [torch.zeros_like(p) for p in self.matrices]
        vectors = [p for name, p in named.items() if name not in model.MATRICES and name != "tok_emb"]
        adamw = dict(betas=(0.9, 0.99), eps=1e-8, fused=True)
        self.adam = [torch.optim.AdamW([model.tok_emb], lr=0.03, weight_decay=0.085, **adamw), torch.optim.AdamW(vectors, lr=0.02, weight_decay=0.02, **adamw)]
        self.orthogonalise = polar_express

    @torch.no_grad()
    def step(self, momentum=0.92, scale=1.0, matrix_lr=0.026, decay=0.095, clip=0.3):
        """One step on the gradients that are in the model, with every learning rate times `scale`."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        for optimizer, rate in zip(self.adam, (0.03, 0.02)):
            optimizer.param_groups[0]["lr"] = rate * scale
            optimizer.step()
        rate = matrix_lr * scale
        for p, m in zip(self.matrices, self.momenta):
            m.mul_(momentum).add_(p.grad)
            p.mul_(1 - rate * decay).add_(self.orthogonalise(p.grad.add(m, alpha=momentum)).to(p.dtype), alpha=-rate)
        self.model.zero_grad(set_to_none=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpt_peer.add_bench(parser.add_subparsers(required=True), functools.partial(gpt_peer.bench, config=Config, model=Model, optimizers=Optimizers))
    arguments = parser.parse_args()
    arguments.run(arguments)
