#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "common/base/clock.h"
#include "common/base/live_line.h"
#include "common/base/text.h"
#include "common/tool/tool.h"

namespace fairway {

struct Progress::Impl {
  std::string label, note;
  int64_t total = 0, done = 0;
  bool ended = false;
  Clock::time_point start = Clock::now();
  std::mutex mutex;  // guards what is above
  std::condition_variable end;
  std::thread thread;

  // REQUIRES: the mutex is held.
  std::string Text() const {
    const double seconds = SecondsSince(start);
    std::string text = label;
    if (total > 0) text += StringPrintf("  %3jd%%", 100 * done / total);
    text += "  " + Duration(seconds);
    if (total > 0 && done > 0) text += ", " + Duration(seconds * static_cast<double>(total - done) / static_cast<double>(done)) + " left";
    return note.empty() ? text : text + "  " + note;
  }

  void Draw() {
    constexpr std::chrono::milliseconds kRedraw(200);
    const char* given = std::getenv("FAIRWAY_PROGRESS_AFTER");
    double after = 1;
    if (given != nullptr) ParseDouble(given, &after);
    std::unique_lock lock(mutex);
    const auto has_ended = [&] { return ended; };
    if (after > 0 && end.wait_for(lock, std::chrono::duration<double>(std::min(after, 1e6)), has_ended)) return;
    do SetLiveLine(Text());
    while (!end.wait_for(lock, kRedraw, has_ended));
    SetLiveLine(Text());  // the last state, however fast the work was
    SetLiveLine("");
  }
};

Progress::Progress(std::string label, int64_t total) {
  if (!HasLiveLine()) return;
  impl_ = std::make_unique<Impl>();
  impl_->label = std::move(label);
  impl_->total = total;
  impl_->thread = std::thread([impl = impl_.get()] { impl->Draw(); });
}

Progress::~Progress() {
  if (!impl_) return;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->ended = true;
  }
  impl_->end.notify_one();
  impl_->thread.join();
}

void Progress::Update(int64_t done, const std::string& note) {
  if (!impl_) return;
  const std::lock_guard lock(impl_->mutex);
  impl_->done = done;
  impl_->note = note;
}

}  // namespace fairway
