// An audit for people and for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/audit/audit.h"
#include "common/submission/table.h"

namespace fairway {

// The findings of one folder, contradictions first: two lines each, the claim above what the files say. Printable.
std::vector<std::string> AuditLines(const Audit& audit);
nlohmann::ordered_json AuditJson(const Audit& audit);
// One row per folder: how many claims hold, are contradicted, cannot be told, and what is contradicted: all of it, or the first of
// each sort.
Table AuditTable(const std::vector<Audit>& audits, bool whole);

}  // namespace fairway
