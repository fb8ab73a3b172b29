"""The pipeline's model and training step in plain PyTorch: what its speed is measured against, and an oracle for any shape.

Written from the definitions, not from the C++ code. It needs BIGRAM_VOCAB_SIZE > 0, keeps rotary tables in float32 under
bfloat16 too, and knows no reset at a document's start. Shapes come from the environment (NUM_LAYERS=…).

    python gpt_peer.py bench --tokens 4096 --seq 2048 --mode compile --dtype bf16
    python gpt_peer.py windows --seq 2048 --dtype bf16 --count 32
    python gpt_peer.py check FOLDER
"""
import argparse
import json
import math
import os
import time

import torch
import torch.nn.functional as F

CONTROL = ("attn_scale", "mlp_scale", "resid_mix", "q_gain", "skip_weight", "smear", "bigram.scale")


class Config:
    """Names are the environment variables of the published script in lower case; defaults are its record."""

    fields = dict(seed=1337, vocab_size=1024, num_layers=11, model_dim=512, num_heads=8, num_kv_heads=4, mlp_mult=3.0,
                  tie_embeddings=1, rope_base=10000.0, logit_softcap=30.0, qk_gain_init=1.5, tied_embed_init_std=0.005,
                  bigram_vocab_size=10240, bigram_dim=128, xsa_last_n=4)

    def __init__(self, **given):
        for name, default in self.fields.items():
            setattr(self, name, type(default)(given.get(name, os.environ.get(name.upper(), default))))


def rms(x):
    return F.rms_norm(x, (x.size(-1),))


def fake_quant_int6(w):
    """Row-wise int6 with the published floor of 1/31 on the step; returns values, same shape as w."""
    w32 = w.float()
    step = (w32.abs().amax(dim=1, keepdim=True) / 31.0).clamp_min(1.0 / 31.0)
    return torch.clamp(torch.round(w32 / step), -32, 31) * step


class Linear(torch.nn.Linear):
    qat = False

    def forward(self, x):
        w = self.weight.to(x.dtype)
        if Linear.qat and self.training:
            w = w + (fake_quant_int6(self.weight.detach()).to(x.dtype) - w).detach()
        return F.linear(x, w)


class Attention(torch.nn.Module):
    def __init__(self, c, exclusive):
        super().__init__()
        kv_dim = c.num_kv_heads * (c.model_dim // c.num_heads)
        self.c_q = Linear(c.model_dim, c.model_dim, bias=False)
        self.c_k = Linear(c.model_dim, kv_dim, bias=False)
        self.c_v = Linear(c.model_dim, kv_dim, bias=False)
        self.proj = Linear(c.model_dim, c.model_dim, bias=False)
        self.q_gain = torch.nn.Parameter(torch.full((c.num_heads,), c.qk_gain_init))
        self.heads, self.kv_heads, self.exclusive = c.num_heads, c.num_kv_heads, exclusive

    def forward(self, x, cos, sin):
        b, t, dim = x.shape
        split = lambda y, h: y.view(b, t, h, -1).transpose(1, 2)
        q, k, v = split(self.c_q(x), self.heads), split(self.c_k(x), self.kv_heads), split(self.c_v(x), self.kv_heads)
        q, k = rotate(rms(q), cos, sin), rotate(rms(k), cos, sin)
        q = q * self.q_gain.to(q.dtype)[None, :, None, None]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        if self.exclusive:
            n = F.normalize(v, dim=-1).repeat_interleave(self.heads // self.kv_heads, dim=1)
            y = y - (y * n).sum(-1, keepdim=True) * n
        return self.proj(y.transpose(1, 2).reshape(b, t, dim))


def rotate(x, cos, sin):
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1)


class Block(torch.nn.Module):
    def __init__(self, c, exclusive):
        super().__init__()
        self.attn = Attention(c, exclusive)
        hidden = int(c.mlp_mult * c.model_dim)
        self.mlp = torch.nn.ModuleDict(dict(fc=Linear(c.model_dim, hidden, bias=False), proj=Linear(hidden, c.model_dim, bias=False)))
        self.attn_scale = torch.nn.Parameter(torch.ones(c.model_dim))
        self.mlp_scale = torch.nn.Parameter(torch.ones(c.model_dim))
        self.resid_mix = torch.nn.Parameter(torch.stack((torch.ones(c.model_dim), torch.zeros(c.model_dim))))

    def forward(self, x, x0, cos, sin):
        mix = self.resid_mix.to(x.dtype)
        x = mix[0] * x + mix[1] * x0
        x = x + self.attn_scale.to(x.dtype) * self.attn(rms(x), cos, sin)
        return x + self.mlp_scale.to(x.dtype) * self.mlp.proj(torch.relu(self.mlp.fc(rms(x))).square())


class Model(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.tok_emb = torch.nn.Embedding(c.vocab_size, c.model_dim)
        self.bigram = torch.nn.Module()
        self.bigram.embed = torch.nn.Embedding(c.bigram_vocab_size, c.bigram_dim)
        if c.bigram_dim != c.model_dim:
            self.bigram.proj = Linear(c.bigram_dim, c.model_dim, bias=False)
        self.bigram.scale = torch.nn.Parameter(torch.tensor(0.05))
        self.encoder_layers = c.num_layers // 2
        self.skip_weights = torch.nn.Parameter(torch.ones(min(self.encoder_layers, c.num_layers - self.encoder_layers), c.model_dim))
        self.smear = torch.nn.Module()
        self.smear.gate = torch.nn.Parameter(torch.zeros(c.model_dim))
        self.blocks = torch.nn.ModuleList(Block(c, i >= c.num_layers - c.xsa_last_n) for i in range(c.num_layers))
        self.lm_head = None if c.tie_embeddings else Linear(c.model_dim, c.vocab_size, bias=False)

    def logits(self, ids):
        c, t = self.c, ids.size(1)
        half = torch.arange(0, c.model_dim // c.num_heads, 2, dtype=torch.float32, device=ids.device)
        angle = torch.outer(torch.arange(t, dtype=torch.float32, device=ids.device), 1.0 / c.rope_base ** (half / (c.model_dim // c.num_heads)))
        pair = ids.to(torch.int32)
        hashed = torch.full_like(pair, c.bigram_vocab_size - 1)
        hashed[:, 1:] = torch.bitwise_xor(36313 * pair[:, 1:], 27191 * pair[:, :-1]) % (c.bigram_vocab_size - 1)
        embedded = self.bigram.embed(hashed.long())
        if hasattr(self.bigram, "proj"):
            embedded = self.bigram.proj(embedded)
        x = rms(self.tok_emb(ids) + embedded * self.bigram.scale.to(embedded.dtype))
        gate = torch.sigmoid(self.smear.gate.to(x.dtype))
        x = x0 = (1 - gate) * x + gate * F.pad(x, (0, 0, 1, 0))[:, :-1]
        cos, sin = angle.cos().to(self.compute_dtype(x)), angle.sin().to(self.compute_dtype(x))
        skips = []
        for i, block in enumerate(self.blocks):
            if i >= self.encoder_layers and skips:
                x = x + self.skip_weights[i - self.encoder_layers].to(x.dtype) * skips.pop()
            x = block(x, x0, cos, sin)
            if i < self.encoder_layers:
                skips.append(x)
        x = rms(x)
        projected = F.linear(x, self.tok_emb.weight) if self.lm_head is None else self.lm_head(x)
        return c.logit_softcap * torch.tanh(projected / c.logit_softcap)

    def embeddings_to_bfloat16(self):
        self.tok_emb.bfloat16(), self.bigram.embed.bfloat16()

    @staticmethod
    def compute_dtype(x):
        return torch.bfloat16 if torch.is_autocast_enabled(x.device.type) else x.dtype

    def forward(self, ids, targets):
        logits = self.logits(ids)
        return F.cross_entropy(logits.reshape(-1, logits.size(-1)).float(), targets.reshape(-1))


def orthogonalise(g, steps=5):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    x = x / (x.norm() + 1e-7)
    x = x.T if g.size(0) > g.size(1) else x
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    x = x.T if g.size(0) > g.size(1) else x
    return x * max(1, g.size(0) / g.size(1)) ** 0.5


class Optimizers:
    """Muon for matrices, AdamW for the rest (Adam for an untied output layer)."""

    def __init__(self, model, tied_embed_lr=0.03, matrix_lr=0.02, scalar_lr=0.02):
        named = dict(model.named_parameters())
        tokens = [p for n, p in named.items() if n in ("tok_emb.weight", "bigram.embed.weight")]
        control = [p for n, p in named.items() if p.ndim < 2 or any(k in n for k in CONTROL)]
        taken = {id(p) for p in tokens + control}
        self.matrices = [p for n, p in named.items() if id(p) not in taken and "lm_head" not in n]
        self.momenta = [torch.zeros_like(p) for p in self.matrices]
        adamw = dict(betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, fused=True)
        self.adam = [torch.optim.AdamW(tokens, lr=tied_embed_lr, **adamw), torch.optim.AdamW(control, lr=scalar_lr, **adamw)]
        if model.lm_head is not None:
            self.adam[0].param_groups[0]["lr"] = 0.6
            self.adam.append(torch.optim.Adam([model.lm_head.weight], lr=0.008, betas=(0.9, 0.95), eps=1e-8, fused=True))
        self.adam_lrs = [optimizer.param_groups[0]["lr"] for optimizer in self.adam]
        self.matrix_lr, self.model = matrix_lr, model
        self.orthogonalise = orthogonalise

    @torch.no_grad()
    def step(self, momentum=0.92, decay=0.04, clip=0.3, scale=1.0):
        """One step on the gradients that are in the model, with every learning rate times `scale`."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        for optimizer, rate in zip(self.adam, self.adam_lrs):
            optimizer.param_groups[0]["lr"] = rate * scale
            optimizer.step()
        lr = self.matrix_lr * scale
        for p, m in zip(self.matrices, self.momenta):
            m.mul_(momentum).add_(p.grad)
            p.mul_(1 - lr * decay).add_(self.orthogonalise(p.grad.add(m, alpha=momentum)).to(p.dtype), alpha=-lr)
        self.model.zero_grad(set_to_none=True)


def bench(a, config=Config, model=Model, optimizers=Optimizers):
    """Prints one JSON line: tokens per second of whole training steps (forward, backward, clip, optimisers)."""
    torch.set_num_threads(a.threads)
    torch.manual_seed(1337)
    model = model(config())
    if a.dtype == "bf16":
        model.embeddings_to_bfloat16()
    optimizers = optimizers(model)
    run = torch.compile(model, dynamic=False) if a.mode == "compile" else model
    if a.mode == "compile":
        optimizers.orthogonalise = torch.compile(optimizers.orthogonalise)
    ids = torch.randint(0, model.c.vocab_size, (a.tokens // a.seq, a.seq + 1))

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.dtype == "bf16"):
            loss = run(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizers.step()
        return loss.item()

    for _ in range(a.warmup):
        step()
    times, processor = [], []
    for _ in range(a.steps):
        start, used = time.perf_counter(), time.process_time()
        step()
        times.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    middle = lambda numbers: sorted(numbers)[len(numbers) // 2]
    print(json.dumps(dict(mode=a.mode, dtype=a.dtype, tokens=a.tokens, seq=a.seq, threads=a.threads, step_s=round(middle(times), 4),
                          processor_s=round(middle(processor), 4), tokens_per_s=round(a.tokens / middle(times), 1))))


def windows(a):
    """Prints one JSON line: seconds per window of sliding evaluation, the published way: the whole model and all logits."""
    torch.set_num_threads(a.threads)
    torch.manual_seed(1337)
    model = Model(Config()).eval()
    if a.dtype == "bf16":
        model.embeddings_to_bfloat16()
    count = a.count
    ids = torch.randint(0, model.c.vocab_size, (count, a.seq + 1))
    times = []
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.dtype == "bf16"):
        for _ in range(a.steps + 1):
            start = time.perf_counter()
            logits = model.logits(ids[:, :-1])
            F.cross_entropy(logits.reshape(-1, logits.size(-1)).float(), ids[:, 1:].reshape(-1), reduction="none")
            times.append((time.perf_counter() - start) / count)
    times = sorted(times[1:])
    print(json.dumps(dict(dtype=a.dtype, seq=a.seq, window_s=times[len(times) // 2])))


def check(a):
    """Loads a folder of the published script's numbers, takes its first two steps and compares logits, loss, gradients and
    weights (their distance over the way they have come); exits 1 past a tolerance."""
    import numpy as np
    from safetensors.torch import load_file
    read = lambda name: load_file(os.path.join(a.case, name + ".safetensors"))
    result = json.load(open(os.path.join(a.case, "result.json")))
    env = {k.lower(): v for k, v in result["env"].items()}
    model, init = Model(Config(**env)), read("init")
    model.load_state_dict(init)
    batch = read("first_microbatch")
    worst = {"logits": (model.logits(batch["input_ids"].long()) - batch["logits"]).abs().max().item()}
    shard = np.fromfile(os.path.join(a.case, "..", "data", "fineweb_train_000000.bin"), "<u2", offset=1024).astype(np.int64)
    seq, span = int(env["train_seq_len"]), int(env["train_batch_tokens"]) // 8 + 1
    optimizers = Optimizers(model)
    for step in range(2):
        for micro in range(8 * step, 8 * step + 8):
            part = torch.from_numpy(shard[micro * span:(micro + 1) * span])
            loss = model(part[:-1].view(-1, seq), part[1:].view(-1, seq))
            worst["loss"] = max(worst.get("loss", 0), abs(loss.item() - result["micro_losses"][micro]))
            (loss / 8).backward()
        if step == 0:
            golden = read("grads_step1")
            worst["gradients"] = max((p.grad - golden[n]).abs().max().item() for n, p in model.named_parameters())
        fraction = min(step / int(env["muon_momentum_warmup_steps"]), 1.0)
        optimizers.step(momentum=(1 - fraction) * 0.92 + fraction * 0.99)
        golden = read(f"params_after_step{step + 1}")
        distance = lambda n, p: ((p - golden[n]).norm() / (init[n] - golden[n]).norm().clamp_min(1e-30)).item()
        worst[f"weights {step + 1}"] = max(distance(n, p) for n, p in model.named_parameters())
    print("; ".join(f"{k}: {v:.3g}" for k, v in worst.items()))
    raise SystemExit(any(v > (0.2 if k.startswith("weights") else 1e-3) for k, v in worst.items()))


def add_bench(sub, run):
    p = sub.add_parser("bench")
    p.add_argument("--tokens", type=int, default=4096)
    p.add_argument("--seq", type=int, default=2048)
    p.add_argument("--mode", choices=("eager", "compile"), default="eager")
    p.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--steps", type=int, default=5)
    p.set_defaults(run=run)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(required=True)
    p = sub.add_parser("windows")
    p.add_argument("--count", type=int, default=32, help="windows evaluated at a time (EVAL_BATCH_SEQS)")
    p.add_argument("--seq", type=int, default=2048)
    p.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--steps", type=int, default=2)
    p.set_defaults(run=windows)
    add_bench(sub, bench)
    p = sub.add_parser("check")
    p.add_argument("case")
    p.set_defaults(run=check)
    arguments = parser.parse_args()
    arguments.run(arguments)
