#include "common/settings/method.h"

#include "common/base/error.h"
#include "common/base/text.h"

namespace fairway {

bool IsSliding(const Settings& eval) { return eval.eval_stride > 0 && eval.eval_stride < eval.train_seq_len; }

bool LearnsByDocument(const Settings& eval) { return eval.method == "ttt" && eval.ttt_lora_rank > 0; }

void CheckMethod(const Settings& eval, bool on_gpu) {
  if (eval.ngram_order > 0) {
    if (!IsSliding(eval) && !LearnsByDocument(eval))
      throw UsageError(StringPrintf("ngram_order = %jd mixes into windows that overlap or documents that adapters learn from; this evaluation is plain", eval.ngram_order));
    if (eval.published_quirks)
      throw UsageError("ngram_order: the published sum, which published_quirks = 1 asks for, is of the model alone");
  }
  if (eval.method == "sliding") return;
  const std::string method = "method = " + eval.method;
  if (LearnsByDocument(eval)) {
    if (on_gpu) throw UsageError(method + " with ttt_lora_rank above 0 is for a CPU: device = cpu evaluates so, method = sliding without adapters");
    for (const char* beta : {"ttt_beta1", "ttt_beta2"})
      if (eval.Get(beta) == "1") throw UsageError(std::string(beta) + " = 1 divides by zero; it must be less than 1");
    if (eval.ttt_chunk_size > eval.ttt_eval_seq_len)
      throw UsageError(StringPrintf("ttt_chunk_size = %jd targets do not fit into windows of ttt_eval_seq_len = %jd", eval.ttt_chunk_size, eval.ttt_eval_seq_len));
    if (eval.phased_ttt_prefix_docs > 0 && eval.phased_ttt_num_phases > 0 && eval.global_ttt_chunk_tokens % eval.train_seq_len != 0)
      throw UsageError(StringPrintf("global_ttt_chunk_tokens = %jd is no multiple of the %jd tokens of a window (eval_seq_len, or train_seq_len): the rest of a "
                                    "chunk would not be learnt from",
                                    eval.global_ttt_chunk_tokens, eval.train_seq_len));
    return;
  }
  if (!IsSliding(eval))
    throw UsageError(StringPrintf("%s needs windows that overlap: eval_stride = %jd is not between 1 and %s - 1 = %jd", method.c_str(), eval.eval_stride,
                                  eval.eval_seq_len > 0 ? "eval_seq_len" : "train_seq_len", eval.train_seq_len - 1));
  if (eval.published_quirks)
    throw UsageError(method + ": the published sum, which published_quirks = 1 asks for, is that of method = sliding");
  if (eval.packed_documents) throw UsageError(method + " does not keep to one document: packed_documents = 1 is for method = sliding and for adapters");
  if (eval.method == "kv_cache" && on_gpu) throw UsageError(method + " is for a CPU: no keys and values are kept on a GPU; device = cpu evaluates so");
}

}  // namespace fairway
