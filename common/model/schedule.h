// The forward and the backward pass over the plan's visits, written once. A backend computes the coarse operations below; how it
// divides rows among threads, what it fuses and where it waits is its own business.
//
//   Embed()                  tokens to the stream x0
//   AttentionInput(v)        skip, residual mix, norm, queries, keys and values of visit v
//   Attention(v)             attention, inside each segment
//   Output(v)                exclusive attention, gate, projection, MLP and the residual lanes
//   OutputBackward(v)        from the gradient of the stream behind visit v to those of attention's output and of the residual path
//   AttentionBackward(v)
//   AttentionInputBackward(v)   to the gradient of the stream before visit v
//   LayerDone(layer)         the gradients of the matrices in `layer` and in all later layers are complete
//   EmbedBackward()
//
// The output layer is the caller's: between the passes, from the stream behind the last visit to its gradient.
#pragma once

#include "common/plan/plan.h"

namespace fairway {

template <class Backend>
void ForwardPass(const std::vector<Visit>& visits, Backend& backend) {
  backend.Embed();
  for (size_t v = 0; v < visits.size(); ++v) {
    backend.AttentionInput(v);
    backend.Attention(v);
    backend.Output(v);
  }
}

template <class Backend>
void BackwardPass(const std::vector<Visit>& visits, Backend& backend) {
  for (size_t v = visits.size(); v-- > 0;) {
    backend.OutputBackward(v);
    backend.AttentionBackward(v);
    backend.AttentionInputBackward(v);
    if (visits[v].first_of_layer) backend.LayerDone(visits[v].layer);
  }
  backend.EmbedBackward();
}

}  // namespace fairway
