// A small table, for a terminal and for Markdown.
#pragma once

#include <string>
#include <vector>

namespace fairway {

using Table = std::vector<std::vector<std::string>>;  // rows of cells; the first row is the heading

// Lines without newline at their end: the first column to the left, all others to the right.
std::vector<std::string> TextLines(const Table& table);
std::string Markdown(const Table& table);

}  // namespace fairway
