// Embedding, hashed bigrams, norm and smear gate (pull request 531).
//
//   s  = tok_emb[id] + bigram            bigram: what the table and its projection add, its scale included; [N, D]
//   x1 = s / sqrt(mean(s^2) + eps)
//   x0 = (1 - g) x1 + g x1_before        g = sigmoid(smear.gate); x1_before: the row before, 0 where `joined` is 0
//
// Row n of every array is one position; float32 [N, D] unless said otherwise. Tables are elements, their gradients float32.
#pragma once

#include "common/model/ops/element.h"
#include "common/model/ops/kernel.h"

namespace fairway {

// out[n] = table[index[n]], both of `width` columns and of one kind; rows of `out` lie `stride` elements apart, with 0 between.
FAIRWAY_KERNEL(GatherRows, int64_t width, Elements table, const int32_t* index, Elements out, int64_t stride, Rows rows);
// out[n] += table[index[n]], both of one kind; rows of `out` lie `stride` elements apart.
FAIRWAY_KERNEL(AddGatheredRows, int64_t width, Elements table, const int32_t* index, Elements out, int64_t stride, Rows rows);
// table[index[n]] += scale * x[n] for all N rows, in their order, in the columns [columns.first, columns.last). x's rows, float32 or
// elements, lie `stride` elements apart.
FAIRWAY_KERNEL(ScatterAddRows, int64_t width, float scale, Elements x, int64_t stride, const int32_t* index, int64_t N, float* table,
               Rows columns);

// sum += the dot product of x's rows, float32, and y's, elements; both of `width` columns.
FAIRWAY_KERNEL(DotRows, int64_t width, const float* x, Elements y, float* sum, Rows rows);

// bigram: elements, null where there is none; it counts bigram_scale times. inverse_norms: [N]; null: x1 is s, without the norm.
FAIRWAY_KERNEL(EmbedForward, int64_t D, Elements tok_emb, const int32_t* ids, Elements bigram, float bigram_scale, float* x1,
               float* inverse_norms, Rows rows);
// joined: uint8 [N]. Reads the row before rows.first.
FAIRWAY_KERNEL(SmearForward, int64_t D, const float* g, const uint8_t* joined, const float* x1, float* x0, Rows rows);

// From dx0 to ds, and to ds as elements besides where that is asked for; adds to dgate [D] (of smear.gate, before the sigmoid;
// null: there is none). Reads dx0 and joined one row beyond rows.last, up to N.
FAIRWAY_KERNEL(EmbedBackward, int64_t D, const float* g, const uint8_t* joined, const float* x1, const float* inverse_norms,
               const float* dx0, float* ds, Elements ds_elements, float* dgate, int64_t N, Rows rows);

}  // namespace fairway
