// The live line: the last line of a terminal, rewritten while a program works. Lines of the log (log.h) appear above it.
//
// It exists only where standard error is a terminal that can rewrite a line (TERM is neither empty nor dumb), NO_COLOR is empty or not
// set, and this process writes the log.
#pragma once

#include <string>

namespace fairway {

bool HasLiveLine();
// Replaces the live line; an empty text removes it. The text is cut to the terminal's width. FAIRWAY_STAGE, which make sets to
// "2/6 finalize", is shown before it in brackets. Does nothing without a live line.
void SetLiveLine(const std::string& text);
// A line that reports progress, such as a training step's: as Log, but where there is a live line, only the log's file gets it.
void LogProgress(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Seconds as a clock shows them: 5 -> "0:05", 3725 -> "1:02:05".
std::string Duration(double seconds);

}  // namespace fairway
