#pragma once

#include <gtest/gtest.h>

#include <string>

namespace einforge::base::testing {

// Names the cases of a parameterised test by what they print as, "btt:0.25" as
// btt_0_25; the last argument of INSTANTIATE_TEST_SUITE_P. Structs need a
// PrintTo.
struct TestName {
  template <typename T>
  std::string operator()(const ::testing::TestParamInfo<T>& info) const {
    std::string name;
    for (const char c : ::testing::PrintToString(info.param)) {
      const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                         (c >= '0' && c <= '9');
      if (plain) {
        name += c;
      } else if (!name.empty() && name.back() != '_') {
        name += '_';
      }
    }
    while (name.ends_with('_')) {
      name.pop_back();
    }
    return name;
  }
};

}  // namespace einforge::base::testing
