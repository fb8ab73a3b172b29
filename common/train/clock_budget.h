// max_wallclock_seconds shared out: what the end of the schedule needs beside steps, and what is left for steps.
#pragma once

#include <functional>

#include "common/model/transformer.h"
#include "common/parallel/communicator.h"
#include "common/settings/settings.h"
#include "common/tokens/shards.h"

namespace fairway {

class ClockBudget {
 public:
  explicit ClockBudget(const Settings& settings) : settings_(settings), scheduled_(settings) {}

  // Leaves room for calibration for the quantiser and, unless weights are fake-quantised already, for late QAT's search of the
  // steps to train on. Both are measured here, on the weights as they are, and get a fifth more. `weights` gives them on the CPU;
  // `between` is called between windows. Throws UsageError where nothing is left for steps. Collective.
  void Reserve(const std::function<NamedTensors()>& weights, bool fake_quantises, const ShardSet& train, Communicator& communicator,
               const std::function<void()>& between);
  // The search took so long; what it did not need goes to steps.
  void SearchTook(double seconds);
  // The same of a run that is continued, before Reserve.
  void RestoreSearch(double seconds) { search_seconds_ = seconds; }

  // The settings that steps are scheduled by: with the wallclock that they may take.
  const Settings& scheduled() const { return scheduled_; }
  // Of the time that the run has taken, what steps have.
  double SecondsOfSteps(double elapsed) const { return elapsed - search_seconds_; }
  double search_seconds() const { return search_seconds_; }

 private:
  void Schedule(double search);

  const Settings settings_;
  Settings scheduled_;
  double calibration_reserve_ = 0, search_reserve_ = 0;  // seconds that are kept from steps
  double search_seconds_ = 0;                            // that late QAT's search took, in all processes of this run
};

}  // namespace fairway
