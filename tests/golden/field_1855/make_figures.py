"""Writes figures.json: what PyTorch and numpy make of the pieces of pull request 1855 (Muon with Polar Express, GPTQ by standard
deviations, low-rank corrections, segments, calibration windows), on inputs that numpy's PCG64 draws and the C++ test draws again.

    python tests/golden/field_1855/make_figures.py > tests/golden/field_1855/figures.json      # PyTorch 2.11.0, numpy 2.4.6
"""
import json

import numpy as np
import torch

POLAR = ((8.156554524902461, -22.48329292557795, 15.878769915207462), (4.042929935166739, -2.808917465908714, 0.5000178451051316),
         (3.8916678022926607, -2.772484153217685, 0.5060648178503393), (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
         (2.3465413258596377, -1.7097828382687081, 0.42323551169305323))


def drawn(seed, *shape):
    """Uniform in [-1, 1), float32."""
    random = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy((2 * random.random(shape) - 1).astype(np.float32))


def muon(seed, rows, columns, steps=2, rate=0.026, decay=0.095):
    weight, buffer = drawn(seed, rows, columns), torch.zeros(rows, columns, dtype=torch.bfloat16)
    out = {"seed": seed, "rows": rows, "columns": columns, "rate": rate, "decay": decay, "momentum": [0.92, 0.93], "weights": []}
    for step in range(steps):
        gradient, mu = drawn(seed + 1 + step, rows, columns).bfloat16(), out["momentum"][step]
        buffer.mul_(mu).add_(gradient)
        u = gradient.add(buffer, alpha=mu)
        u = u / u.float().norm(dim=-1, keepdim=True).clamp_min(1e-7).to(u.dtype)
        tall = rows > columns
        x = u.mT if tall else u
        x = x / (x.norm() + 1e-7)
        for a, b, c in POLAR:
            gram = x @ x.mT
            x = a * x + (b * gram + c * (gram @ gram)) @ x
        x = x.mT if tall else x
        weight.mul_(1 - rate * decay).add_(x, alpha=-rate * max(1, rows / columns) ** 0.5)
        out["weights"].append([float(f"{v:.8g}") for v in weight.flatten().tolist()])
    return out


def gptq(seed, rows, columns, bits, sigmas):
    w, inputs = drawn(seed, rows, columns), drawn(seed + 1, 3 * columns, columns)
    inputs[:, 5] = 0
    h = inputs.T @ inputs
    top, block = 2 ** (bits - 1) - 1, 128
    given = h.clone()
    dead = h.diag() == 0
    h[dead, dead] = 1
    h.diagonal().add_(0.01 * h.diag().mean())
    order = torch.argsort(h.diag(), descending=True)
    rest = w[:, order].clone()
    rest[:, dead[order]] = 0
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h[order][:, order])), upper=True)
    scale = (sigmas * w.std(dim=1) / top).clamp_min(1e-10).half()
    s, codes = scale.float(), torch.zeros(w.shape, dtype=torch.int8)
    for a in range(0, columns, block):
        b = min(a + block, columns)
        part, error = rest[:, a:b].clone(), torch.zeros(rows, b - a)
        for j in range(b - a):
            q = torch.clamp(torch.round(part[:, j] / s), -top, top)
            codes[:, a + j] = q.to(torch.int8)
            error[:, j] = (part[:, j] - q * s) / u[a + j, a + j]
            part[:, j:] -= error[:, j:j + 1] * u[a + j, a + j:b]
        rest[:, b:] -= error @ u[a:b, b:]
    codes = codes[:, torch.argsort(order)]
    left, values, right = torch.linalg.svd(w - codes.float() * s[:, None], full_matrices=False)
    a, b = left[:, :4] * values[:4], right[:4]
    scale_a, groups = (a.abs().amax() / 1.5).half(), b.reshape(-1, 64)
    scale_b = (groups.abs().amax(1) / 7.5).half()
    return {"seed": seed, "rows": rows, "columns": columns, "bits": bits, "sigmas": sigmas, "trace": float(given.trace()), "codes": codes.flatten().tolist(),
            "scales": s.tolist(), "a": torch.clamp(torch.round(a / scale_a.float()), -2, 1).int().flatten().tolist(), "a_scale": float(scale_a),
            "b": torch.clamp(torch.round(groups / scale_b.float()[:, None]), -8, 7).int().flatten().tolist(), "b_scales": scale_b.float().tolist()}


def windows(seed, sizes, length, count):
    random = np.random.Generator(np.random.PCG64(seed))
    left = []
    for n in sizes:
        phase = int(random.integers(min(length - 1, max(0, n - length - 1)) + 1))
        left.append((phase + random.permutation((n - 1 - phase) // length) * length).tolist())
    out = []
    for _ in range(count):
        counts = np.array([len(x) for x in left], float)
        shard = int(random.choice(len(counts), p=counts / counts.sum()))
        out.append([shard, left[shard].pop()])
    return {"seed": seed, "sizes": sizes, "length": length, "windows": out}


print(json.dumps({"muon": [muon(10, 24, 32), muon(20, 32, 16)], "gptq": [gptq(30, 16, 160, 6, 11.5), gptq(40, 40, 48, 7, 14.0)],
                  "windows": windows(0, [500, 260, 120], 16, 40)}))
