// For tests that start a program: a checkpoint of weights, as ema-finalize leaves one, and what the program did.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "common/checkpoint/checkpoint.h"
#include "common/model/transformer.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {

inline void WriteWeights(const std::string& path, const Settings& settings, const NamedTensors& parameters,
                         Kind kind = Kind::kWeights) {
  CheckpointWriter writer(path, kind, settings.Select(scope::kModel | scope::kTrain | scope::kEvaluate));
  for (const auto& [name, tensor] : parameters) {
    const at::Tensor values = tensor.to(at::kFloat).contiguous();
    writer.Add({name, DType::kFloat32, values.sizes().vec()},
               {reinterpret_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()});
  }
  writer.Finish({}, {});
}

// What a program printed and how it ended. Nothing of this process's environment but PATH reaches it.
struct Ran {
  int status;
  std::string out, err;
};
inline Ran RunCommand(const std::string& command) {
  const ScratchFolder folder;
  const std::string whole =
      "env -i PATH=\"$PATH\" THREADS=1 sh -c '" + command + "' > " + folder / "out" + " 2> " + folder / "err";
  const int status = std::system(whole.c_str());
  return {WEXITSTATUS(status), ReadBytes(folder / "out"), ReadBytes(folder / "err")};
}

}  // namespace fairway
