#include "einforge/store/location.h"

#include <stdlib.h>

#include <algorithm>
#include <cctype>
#include <optional>

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

struct Split {
  std::string location;  // without the password
  std::optional<std::string> password;
};

Split split_password(const std::string& location) {
  Split result{.location = location, .password = {}};
  std::string& left = result.location;
  const std::size_t begin = left.find("://") + 3;
  const std::size_t query =
      std::min(left.find_first_of("?#", begin), left.size());
  // The last: what is after it, and not in a query, cannot be of a password, in
  // which '@' and '/' may come as they are.
  const std::size_t at = left.rfind('@', query);
  if (at != std::string::npos && at >= begin) {
    const std::size_t colon = left.find(':', begin);
    if (colon < std::min(at, left.find('/', begin))) {
      result.password = percent_decoded(
          std::string_view(left).substr(colon + 1, at - colon - 1));
      left.erase(colon, at - colon);
    }
  }
  for (const std::string_view key : {"?password=", "&password="}) {
    const std::size_t mark = left.find(key);
    if (mark == std::string::npos) {
      continue;
    }
    const std::size_t from = mark + key.size();
    const std::size_t end =
        std::min(left.find_first_of("&#", from), left.size());
    result.password =
        percent_decoded(std::string_view(left).substr(from, end - from));
    // With the mark before it, or the one after where more comes.
    const bool more = end < left.size() && left[end] == '&';
    left.erase(more ? mark + 1 : mark, end - mark);
  }
  return result;
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
  const Split split = split_password(location);
  if (split.password) {
    ::setenv("PGPASSWORD", split.password->c_str(), /*overwrite=*/1);
  }
  return split.location;
}

std::string shown_word(const std::string& word) {
  const std::size_t scheme =
      std::min(word.find("postgresql://"), word.find("postgres://"));
  return scheme == std::string::npos
             ? word
             : word.substr(0, scheme) +
                   split_password(word.substr(scheme)).location;
}

std::string with_search(const std::string& location, std::string_view search) {
  return !is_database_uri(location) || location.find("#") != std::string::npos
             ? location
             : fmt::format("{}#{}", location, search);
}

}  // namespace einforge::store
