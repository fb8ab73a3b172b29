// Initial weights: the plan's draws in their order, so that a seed gives the published script's weights bit for bit.
#pragma once

#include "common/model/transformer.h"

namespace fairway {

// Draws the parameters of ParameterSpecs(settings) from settings.seed, in float32 on the CPU with two threads whatever the
// caller uses (LAPACK's QR rounds differently with another count), then casts each to its storage dtype. With published_quirks
// under bfloat16 every value is first rounded to bfloat16, as both entries do.
NamedTensors InitialParameters(const Settings& settings);

}  // namespace fairway
