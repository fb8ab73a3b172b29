// JSON from files that are not trusted.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/error.h"
#include "common/base/text.h"

namespace fairway {

// The JSON library copies, compares and prints values by recursion: depth costs stack.
inline constexpr int kMaxJsonDepth = 32;

// Parses `text` from the file `path` into nlohmann::json or ordered_json. Throws InputError, whose cause begins with
// `subject`, where it is not JSON or nests deeper than kMaxJsonDepth, or where an object has a name twice: JSON allows
// it, and which of the two counts would be a guess.
template <typename Json>
Json ParseJson(std::string_view text, const std::string& path, const std::string& subject = "") {
  std::vector<std::set<std::string>> names;
  const auto check = [&](int depth, typename Json::parse_event_t event, Json& parsed) {
    using Event = typename Json::parse_event_t;
    if ((event == Event::object_start || event == Event::array_start) && depth >= kMaxJsonDepth)
      throw InputError(path, subject + StringPrintf("nests deeper than %d levels", kMaxJsonDepth));
    if (event == Event::object_start) names.emplace_back();
    if (event == Event::object_end) names.pop_back();
    if (event == Event::key && !names.back().insert(parsed.template get<std::string>()).second)
      throw InputError(path, subject + "has the name " + Shorten(Printable(parsed.dump()), 100) + " twice");
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const typename Json::exception&) {
    throw InputError(path, subject + "is not JSON");
  }
}

}  // namespace fairway
