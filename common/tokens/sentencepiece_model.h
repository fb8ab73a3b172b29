// What the SentencePiece library takes on trust in a model and would follow into memory that is none of the model's.
#pragma once

#include <string>
#include <string_view>

namespace fairway {

// Throws InputError(path) unless `model` is a SentencePiece model whose character maps stay inside themselves, and whose
// character maps and user-defined pieces find no more matches at one place of a text than the library keeps room for.
void CheckSentencePieceModel(std::string_view model, const std::string& path);

}  // namespace fairway
