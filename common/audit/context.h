// What the checks of one folder share. Private to this module.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/audit/audit.h"

namespace fairway::audit {

// A number that a file of the folder has.
struct Source {
  Figure figure;
  std::string what;  // "final_int8_zlib_roundtrip_exact"
  std::string at;    // "train_seed42.log:137"
};

// A data set of the field, as its published validation split shows in logs.
struct PublishedSet {
  const char* name;
  double targets;          // of the validation split
  double tokens_per_byte;  // over the split
  double bytes;            // of its text
  double max_shards;       // of 100 M tokens, that all documents make
};

// Bytes by which two counts of one script may differ: a line end.
constexpr double kSameScript = 2;

enum class Track { kTenMinutes, kOther, kUnstated };

struct Context {
  Context(const RecordFolder& folder_in, const AuditOptions& options_in);

  void Add(std::string check, std::string claim, std::string claim_at, std::string files, std::string files_at,
           Verdict verdict);

  std::vector<const FolderLog*> LogsOf(int64_t seed) const;
  // Name, blurb, summary of techniques: what the record says it is.
  std::vector<const Statement*> Texts() const;
  // "submission.json:4", or where the track is stated otherwise.
  std::string ClaimOfTrack() const;

  const RecordFolder& folder;
  const AuditOptions& options;
  std::vector<Finding> findings;

  std::vector<int64_t> seeds;             // that submission.json names
  std::string seeds_at;                   // where
  std::vector<const FolderLog*> counted;  // the logs that the record's score is from
  bool all_logged = false;                // of every claimed seed there is one of them, with a score
  std::map<const FolderLog*, const LoggedScore*>
      headline;  // of a counted log: the score that is claimed, or its last one
  Track track = Track::kUnstated;
  std::string track_text, track_at;
};

// A statement about something other than this record's own runs: errata, baselines, reruns.
bool IsAside(const Statement& statement);
// Whether a figure that is stated may be what a file has: rounded, or cut off.
bool Agrees(const Figure& claim, const Figure& found);
// Whether `key` states the record's score in this unit ("bpb", "loss").
bool IsHeadline(const std::string& key, const std::string& unit);
std::string Decimal(const Figure& figure);                   // with the decimals that it was given with
std::string Count(double value);                             // 17,498,720
std::string Locations(const std::vector<std::string>& places);  // at most three
// The published set that `log` scores, by its number of validation tokens; null where it is none of them.
const PublishedSet* SetOf(const PublicLog& log);
const std::vector<PublishedSet>& PublishedSets();
// Tokens per byte that a score implies; 0 without a loss.
double TokensPerByte(const LoggedScore& score);

// Each adds its findings.
void CheckStatements(Context& context);  // claims.cc
void CheckRules(Context& context);       // rules.cc: size, clocks, text, data
void CheckSeeds(Context& context);       // rules.cc
void CheckTechniques(Context& context);  // techniques.cc
void CheckCommand(Context& context);     // techniques.cc

}  // namespace fairway::audit
