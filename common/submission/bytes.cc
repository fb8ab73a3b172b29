#include "common/submission/bytes.h"

#include <string_view>

namespace fairway {

std::vector<ByteLine> ByteLedger(const FinishedRun& run) {
  std::vector<ByteLine> lines = {{"artifact", run.artifact.compressed, true, "as shipped"},
                                 {"code", run.source_bytes, true, "the source archive as shipped, byte table included"}};
  const Json tokenizer = run.eval.value("tokenizer_bytes", Json());
  lines.push_back({"tokenizer", tokenizer.is_number() ? std::optional<uint64_t>(tokenizer.get<uint64_t>()) : std::nullopt, false,
                   "scoring reads its byte table, which is in the code"});
  const Json programs = run.eval.value("programs", Json());
  if (!programs.is_array()) {
    lines.push_back({"programs", std::nullopt, false, "not recorded"});
    return lines;
  }
  uint64_t code = 0, libtorch = 0, system = 0;
  std::vector<ByteLine> others;
  for (const Json& file : programs) {
    const std::string from = file["from"];
    const uint64_t bytes = file["bytes"];
    if (from == "code") code += bytes;
    else if (from == "libtorch") libtorch += bytes;
    else if (from == "system") system += bytes;
    else others.push_back({"library " + file["name"].get<std::string>(), bytes, true, "is part of neither the code, LibTorch nor the system"});
  }
  // Files of older evaluations alone name what was built.
  lines.push_back({"programs", code > 0 ? std::optional(code) : std::nullopt, false, "built from the code"});
  lines.push_back({"LibTorch and what comes with it", libtorch, false, "public, named by requirements.txt in the code"});
  lines.push_back({"libraries of the system", system, false, "public; eval.json names each"});
  lines.insert(lines.end(), others.begin(), others.end());
  return lines;
}

uint64_t CountedBytes(const FinishedRun& run) {
  uint64_t sum = 0;
  for (const ByteLine& line : ByteLedger(run))
    if (line.counts) sum += line.bytes.value_or(0);
  return sum;
}

}  // namespace fairway
