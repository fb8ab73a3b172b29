// The periodic checkpoints beside a run's output: OUT.partial-000120.ckpt is the one after step 120.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace fairway {

class Partials {
 public:
  // `out`: the finished run's checkpoint.
  explicit Partials(const std::string& out);

  std::string Path(int64_t step) const;
  // Those that exist, by step. Throws IoError where the folder cannot be read: that must not pass for none.
  std::map<int64_t, std::string> List() const;
  void KeepNewest(size_t count) const;
  // What a killed process was writing.
  void RemoveUnfinished() const;

 private:
  std::string prefix_;
};

}  // namespace fairway
