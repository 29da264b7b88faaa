#include "einforge/store/location.h"

#include <stdlib.h>

#include <algorithm>
#include <cctype>

#include "einforge/base/error.h"
#include "einforge/base/text.h"

namespace einforge::store {
namespace {

// "%40" is '@'.
std::string percent_decoded(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto is_hex = [&](std::size_t at) {
      return at < text.size() &&
             std::isxdigit(static_cast<unsigned char>(text[at])) != 0;
    };
    if (text[i] == '%' && is_hex(i + 1) && is_hex(i + 2)) {
      result += static_cast<char>(
          std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      result += text[i];
    }
  }
  return result;
}

void keep_password(std::string_view encoded) {
  ::setenv("PGPASSWORD", percent_decoded(encoded).c_str(), /*overwrite=*/1);
}

}  // namespace

bool is_database_uri(std::string_view location) {
  return location.starts_with("postgresql://") ||
         location.starts_with("postgres://");
}

std::string without_password(const std::string& location) {
  if (!is_database_uri(location)) {
    return location;
  }
  std::string result = location;
  const std::size_t begin = result.find("://") + 3;
  const std::size_t host_end =
      std::min(result.find_first_of("/?#", begin), result.size());
  const std::size_t at = result.rfind('@', host_end);
  if (at != std::string::npos && at >= begin && at < host_end) {
    const std::size_t colon = result.find(':', begin);
    if (colon < at) {
      keep_password(std::string_view(result).substr(colon + 1, at - colon - 1));
      result.erase(colon, at - colon);
    }
  }
  for (const std::string_view key : {"?password=", "&password="}) {
    const std::size_t mark = result.find(key);
    if (mark == std::string::npos) {
      continue;
    }
    const std::size_t from = mark + key.size();
    const std::size_t end =
        std::min(result.find_first_of("&#", from), result.size());
    keep_password(std::string_view(result).substr(from, end - from));
    // With the mark before it, or the one after where more comes.
    const bool more = end < result.size() && result[end] == '&';
    result.erase(more ? mark + 1 : mark, end - mark);
  }
  return result;
}

std::string with_search(const std::string& location, std::string_view search) {
  return !is_database_uri(location) || location.find("#") != std::string::npos
             ? location
             : fmt::format("{}#{}", location, search);
}

}  // namespace einforge::store
