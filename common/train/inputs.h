// What a training run is made from, and whether a checkpoint, or another rank, is of the same.
#pragma once

#include <vector>

#include "common/checkpoint/checkpoint.h"
#include "common/parallel/communicator.h"
#include "common/settings/settings.h"
#include "common/tokens/byte_table.h"
#include "common/tokens/shards.h"

namespace fairway {

constexpr unsigned kTrainingStages = scope::kModel | scope::kTrain;  // whose settings a training checkpoint has

// The training shards, and what their manifest says of the text they are of.
Lineage::Input LineageOf(const ShardSet& shards, const Settings& settings);

// Of the training split, all but the end that select_tokens keeps out of training. Throws InputError where that leaves no sequence.
int64_t TokensToTrainOn(const ShardSet& train, const Settings& settings);

// Settings that decide what is computed must be those that the run was begun with; so must the data. Throws InputError.
void CheckResumable(const CheckpointReader& checkpoint, const Settings& settings, const Lineage& lineage);

// What ranks of one run have in common: what they compute, on what, and what decides when they do what.
std::vector<RankInvariant> InvariantsOf(const Settings& settings, const Lineage& lineage, const ShardSet& val, const ByteTable& table);

}  // namespace fairway
