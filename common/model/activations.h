// The working memory of the CPU engine: the layout of the activations of a chunk of rows.
#pragma once

#include <cstdint>
#include <vector>

#include "common/model/ops/product.h"
#include "common/plan/plan.h"

namespace fairway {

constexpr int64_t kHeadRows = 252;  // rows of logits that a thread has at a time

// One block of memory for everything, aligned to cache lines, on large pages where the system gives them.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace();

  // Provides `bytes`. Where the block has to grow, its contents are lost.
  void Reserve(int64_t bytes);
  char* data() const { return memory_; }

 private:
  char* memory_ = nullptr;
  int64_t size_ = 0;
};

// Allocates parts of a workspace; without memory, it only counts bytes.
class Planner {
 public:
  explicit Planner(char* memory) : memory_(memory) {}
  template <class T>
  T* Take(int64_t count) {
    char* part = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return reinterpret_cast<T*>(part);
  }
  Elements Take(int64_t count, Precision precision) { return {Take<char>(count * ElementBytes(precision)), precision}; }
  Panels Take(int64_t K, int64_t N, Precision precision) {
    return {.words = Take<Word>(Panels::Words(precision, K, N)), .K = K, .N = N, .precision = precision};
  }
  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// The distance from row to row where a row of `width` elements is a product's operand: whole words.
inline int64_t RowStride(Precision precision, int64_t width) { return WordsFor(precision, width) * WordElements(precision); }

// What the layout depends on.
struct ActivationShape {
  const Plan* plan;
  bool looped;
  Precision precision;
  int64_t rows;     // N, of all segments together
  int64_t longest;  // positions of a segment
  bool training;
  int threads;
};

struct Activations {
  // Of a visit, for the backward pass.
  struct Saved {
    Elements qkv, y, h;  // [N, (H + 2 Hkv) d], [N, D], [N, F]
    float *residual;      // [N, D]: what the residual path carries past attention
    float *inverse_norms, *lse;
    float* gates = nullptr;  // [N, H]: of attention's output
    Elements a, m;           // [N, D]: what attention and MLP give to the lanes
  };
  // One thread's rows of logits, which become their gradients, and both operands of the output layer's gradient.
  struct Head {
    float* logits;
    Panels dlogits, u;
  };
  int64_t N;
  // [visits + 1] of [N, D]: the stream before each visit and behind the last; with lanes lane 0, and lane 1 beside it where there
  // is one.
  std::vector<float*> x, lane1;
  float* final;              // [N, D]: what the output is computed from
  std::vector<Saved> saved;  // [visits]; all the same where no backward pass follows
  std::vector<Head> heads;   // of each thread
  std::vector<char*> scratch;
  std::vector<float*> dskip;  // [visits / 2]: of the skip that each visit of the first half leaves
  float *x1, *embed_norms, *losses, *smear_gates;
  Elements bigram, u, act;
  int32_t *ids, *targets, *positions, *bigram_rows;
  uint8_t* joined;
  // Backward pass. dx: of the stream, or of lane 0; dx_lane1: of lane 1.
  float *dx, *dx_lane1, *dx0, *dbigram, *dgates, *dsmear;
  Elements dx_elements, da, dm, dy, dh, dqkv;
  // Operands of weight gradients: of the MLP, of attention's output, of its input, of the bigram projection.
  Panels mlp_dx, mlp_act, mlp_dh, mlp_u, proj_dx, proj_y, qkv_d, qkv_u, bigram_d, bigram_in;
};

Activations PlanActivations(const ActivationShape& shape, Planner& plan);

}  // namespace fairway
