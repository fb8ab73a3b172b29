// Messages for numbers that cannot be parsed.
#pragma once

#include <string>
#include <string_view>

namespace fairway {

// Why ParseInt (text.h) takes no number from `text`: "is not a whole number", or one that is beyond 64 bits.
inline std::string NotAnInteger(std::string_view text) {
  const std::string_view digits = text.substr(text.starts_with('-') ? 1 : 0);
  const bool number = !digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos;
  return !number ? "is not a whole number" : text.starts_with('-') ? "is less than -9223372036854775808" : "is more than 9223372036854775807";
}

}  // namespace fairway
