#include "common/submission/table.h"

#include <algorithm>

namespace fairway {

std::vector<std::string> TextLines(const Table& table) {
  std::vector<size_t> widths;
  for (const auto& row : table) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::vector<std::string> lines;
  for (const auto& row : table) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string blanks(widths[i] - row[i].size(), ' ');
      line += i == 0 ? row[i] + blanks : "  " + blanks + row[i];
    }
    lines.push_back(line);
  }
  return lines;
}

std::string Markdown(const Table& table) {
  std::string text;
  for (size_t row = 0; row < table.size(); ++row) {
    for (const std::string& cell : table[row]) text += "| " + cell + " ";
    text += "|\n";
    if (row > 0) continue;
    for (size_t i = 0; i < table[row].size(); ++i) text += i == 0 ? "|---" : "|---:";
    text += "|\n";
  }
  return text;
}

}  // namespace fairway
