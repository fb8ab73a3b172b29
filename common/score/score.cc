#include "common/score/score.h"

#include <algorithm>
#include <numbers>
#include <stdexcept>

#include "common/base/text.h"

namespace fairway {

void ScoreSum::Add(int64_t first, int64_t end, double nats, int64_t bytes) {
  const bool again = first < next_;
  if (first > next_ || (again && !plan_.rescores()) || end <= first || end > plan_.targets()) {
    throw std::logic_error(
        StringPrintf("targets %jd to %jd scored where number %jd of %jd was due", first, end, next_, plan_.targets()));
  }
  nats_ += nats;
  bytes_ += bytes;
  targets_ += end - first;
  rescored_ += again ? std::min(end, next_) - first : 0;
  next_ = std::max(next_, end);
}

double ScoreSum::bits_per_byte() const {
  return nats_ / std::numbers::ln2 / static_cast<double>(bytes_);
}

Score ScoreSum::Finish() const {
  if (next_ != plan_.targets()) {
    throw std::logic_error(StringPrintf("%jd of %jd targets were scored", next_, plan_.targets()));
  }
  return {.val_loss = nats_ / static_cast<double>(targets_),
          .val_bpb = bits_per_byte(),
          .targets = targets_,
          .bytes = bytes_,
          .rescored = rescored_,
          .dropped = plan_.dropped()};
}

}  // namespace fairway
