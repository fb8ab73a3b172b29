// How evaluation scores (the setting `method`), and what of its settings does not go together.
#pragma once

#include "common/settings/settings.h"

namespace fairway {

// Whether windows overlap: 0 < eval_stride < train_seq_len. Otherwise evaluation is plain, or document by document.
bool IsSliding(const Settings& eval);

// Whether low-rank adapters learn document by document: method = ttt with ttt_lora_rank above 0.
bool LearnsByDocument(const Settings& eval);

// Throws UsageError naming the settings where `eval` (as Settings::ForEvaluation gives them) cannot score: windows that must
// overlap do not, a published sum that the method or a mixture does not have, what a GPU does not do, Adam's betas of 1.
void CheckMethod(const Settings& eval, bool on_gpu);

}  // namespace fairway
