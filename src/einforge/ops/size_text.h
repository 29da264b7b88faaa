#pragma once

#include <sstream>
#include <string>

namespace einforge::ops {

// "(32, 512)": how errors write the sizes of a tensor, symbolic ones too.
template <typename Sizes>
std::string size_text(const Sizes& sizes) {
  std::ostringstream text;
  const char* before = "(";
  for (const auto& size : sizes) {
    text << before << size;
    before = ", ";
  }
  text << (sizes.empty() ? "()" : ")");
  return text.str();
}

}  // namespace einforge::ops
