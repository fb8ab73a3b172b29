#include "common/model/activations.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "common/model/ops/attention.h"

namespace fairway {

Workspace::~Workspace() { std::free(memory_); }

void Workspace::Reserve(int64_t bytes) {
  if (bytes <= size_) return;
  std::free(memory_);
  memory_ = nullptr;
  size_ = 0;
  constexpr int64_t kPage = int64_t{2} << 20;
  const int64_t rounded = (bytes + kPage - 1) / kPage * kPage;
  memory_ = static_cast<char*>(std::aligned_alloc(kPage, rounded));
  if (memory_ == nullptr) throw std::bad_alloc();
  madvise(memory_, rounded, MADV_HUGEPAGE);
  size_ = bytes;
}

Activations PlanActivations(const ActivationShape& shape, Planner& plan) {
  const Plan& model = *shape.plan;
  const Precision precision = shape.precision;
  const std::vector<Visit>& visits = model.visits(shape.looped);
  const int64_t N = shape.rows, D = model.D, F = RowStride(precision, model.F), qkv = (model.H + 2 * model.Hkv) * model.d;
  const bool training = shape.training, lanes = visits.back().lanes, gated = model.layers[0].attn_gate != kNone;
  Activations a{.N = N};
  a.x.push_back(plan.Take<float>(N * D));
  a.lane1.push_back(nullptr);
  for (const Visit& visit : visits) {
    a.x.push_back(plan.Take<float>(N * D));
    a.lane1.push_back(visit.lanes ? plan.Take<float>(N * D) : nullptr);
  }
  a.final = lanes ? plan.Take<float>(N * D) : a.x.back();
  for (size_t v = 0; v < visits.size(); ++v) {
    if (v > 0 && !training) {
      a.saved.push_back(a.saved[0]);
      continue;
    }
    Activations::Saved saved{.qkv = plan.Take(N * qkv, precision),
                             .y = plan.Take(N * D, precision),
                             .h = plan.Take(N * F, precision),
                             .residual = plan.Take<float>(N * D),
                             .inverse_norms = plan.Take<float>(N * (model.H + model.Hkv)),
                             .lse = plan.Take<float>(N * model.H)};
    if (gated) saved.gates = plan.Take<float>(N * model.H);
    if (training ? visits[v].lanes : lanes) {
      saved.a = plan.Take(N * D, precision);
      saved.m = plan.Take(N * D, precision);
    }
    a.saved.push_back(saved);
  }
  const int64_t scratch = AttentionScratchBytes({.T = shape.longest, .H = model.H, .Hkv = model.Hkv, .d = model.d});
  for (int i = 0; i < shape.threads; ++i) {
    a.scratch.push_back(plan.Take<char>(scratch));
    Activations::Head head{.logits = plan.Take<float>(kHeadRows * RowStride(precision, model.V)), .dlogits = {}, .u = {}};
    if (training) {
      head.dlogits = plan.Take(kHeadRows, model.V, precision);
      head.u = plan.Take(kHeadRows, D, precision);
    }
    a.heads.push_back(head);
  }
  a.x1 = plan.Take<float>(N * D);
  a.embed_norms = plan.Take<float>(N);
  a.losses = plan.Take<float>(N);
  a.smear_gates = model.smear_window != kNone ? plan.Take<float>(N) : nullptr;
  a.bigram = plan.Take(N * RowStride(precision, model.bigram_dim), precision);
  a.u = plan.Take(N * D, precision);
  a.act = plan.Take(N * F, precision);
  a.ids = plan.Take<int32_t>(N);
  a.targets = plan.Take<int32_t>(N);
  a.positions = plan.Take<int32_t>(N);
  a.bigram_rows = plan.Take<int32_t>(N);
  a.joined = plan.Take<uint8_t>(N);
  if (!training) return a;
  for (size_t i = 0; i < visits.size() / 2; ++i) a.dskip.push_back(plan.Take<float>(N * D));
  a.dx = plan.Take<float>(N * D);
  a.dx_lane1 = lanes ? plan.Take<float>(N * D) : nullptr;
  a.dx0 = plan.Take<float>(N * D);
  a.dbigram = plan.Take<float>(N * model.bigram_dim);
  a.dgates = gated ? plan.Take<float>(N * model.H) : nullptr;
  a.dsmear = model.smear_window != kNone ? plan.Take<float>(N) : nullptr;
  // The stream's gradient as a product's operand: itself where elements are float32.
  a.dx_elements = precision == Precision::kFloat32 ? Floats(a.dx) : plan.Take(N * D, precision);
  if (lanes) {
    a.da = plan.Take(N * D, precision);
    a.dm = plan.Take(N * D, precision);
  }
  a.dy = plan.Take(N * D, precision);
  a.dh = a.act;  // the forward pass is over
  a.dqkv = plan.Take(N * qkv, precision);
  for (Panels* panels : {&a.mlp_dx, &a.mlp_u, &a.proj_dx, &a.proj_y, &a.qkv_u, &a.bigram_d}) *panels = plan.Take(N, D, precision);
  for (Panels* panels : {&a.mlp_act, &a.mlp_dh}) *panels = plan.Take(N, model.F, precision);
  a.qkv_d = plan.Take(N, qkv, precision);
  a.bigram_in = plan.Take(N, model.bigram_dim, precision);
  return a;
}

}  // namespace fairway
