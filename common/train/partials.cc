#include "common/train/partials.h"

#include <filesystem>
#include <string_view>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"

namespace fairway {

namespace fs = std::filesystem;

Partials::Partials(const std::string& out) : prefix_((out.ends_with(".ckpt") ? out.substr(0, out.size() - 5) : out) + ".partial-") {}

std::string Partials::Path(int64_t step) const { return prefix_ + StringPrintf("%06jd.ckpt", step); }

std::map<int64_t, std::string> Partials::List() const {
  std::map<int64_t, std::string> found;
  std::error_code error;
  for (fs::directory_iterator entry(DirectoryOf(prefix_), error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename(), begin = BaseName(prefix_);
    int64_t step;
    if (!name.starts_with(begin) || !name.ends_with(".ckpt")) continue;
    if (!ParseInt(std::string_view(name).substr(begin.size(), name.size() - begin.size() - 5), &step)) continue;
    if (BaseName(Path(step)) == name) found[step] = Path(step);
  }
  if (error) throw IoError(DirectoryOf(prefix_), error.message());
  return found;
}

void Partials::KeepNewest(size_t count) const {
  const auto found = List();
  auto oldest = found.begin();
  for (size_t left = found.size(); left > count; --left) RemoveFile((oldest++)->second);
}

void Partials::RemoveUnfinished() const { RemoveLeftOvers(prefix_); }

}  // namespace fairway
