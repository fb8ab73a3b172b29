// Checks what the SentencePiece library does not check in a model and would follow outside of the model's memory.
#pragma once

#include <string>
#include <string_view>

namespace fairway {

// Throws InputError(path) unless `model` is a SentencePiece model whose character maps stay inside themselves, and whose
// character maps and user-defined pieces find no more matches at one place of a text than the library reserves memory for.
void CheckSentencePieceModel(std::string_view model, const std::string& path);

}  // namespace fairway
