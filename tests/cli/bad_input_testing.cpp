#include "tests/cli/bad_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "einforge/base/text.h"
#include "tests/cli/program.h"
#include "tests/cli/world.h"

namespace einforge::cli {

void check_all(const std::vector<BadInput>& cases) {
  const World& world = World::get();
  for (const BadInput& c : cases) {
    SCOPED_TRACE(c.name);
    const std::string arguments = world.expand(c.arguments);
    const RunResult result = run_einforge(
        arguments.empty() ? std::vector<std::string>{}
                          : base::split(arguments, ' '));
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, testing::StartsWith("einforge: error: "));
    // One line: the only newline is the last character.
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
    for (const std::string& part : c.message) {
      EXPECT_THAT(result.err, testing::HasSubstr(world.expand(part)));
    }
  }
}

}  // namespace einforge::cli
