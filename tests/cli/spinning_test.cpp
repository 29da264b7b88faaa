#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/cli/program.h"

namespace einforge::cli {
namespace {

using testing::HasSubstr;

// What OpenMP says of its environment when a command that computes starts, with
// `before` run by a shell.
std::string openmp_says(const std::string& before) {
  return run_program({"bash",
                      "-c",
                      "unset OMP_WAIT_POLICY GOMP_SPINCOUNT; " + before +
                          " OMP_DISPLAY_ENV=verbose \"$0\" train /absent.toml; "
                          "kill $(jobs -p); exit 0",
                      einforge_path()})
      .err;
}

TEST(SpinningTest, ThreadsSpinBrieflyWhereOthersRun) {
  EXPECT_THAT(
      openmp_says("(while :; do :; done) & sleep 0.1;"),
      HasSubstr("GOMP_SPINCOUNT = '1000'"));
}

TEST(SpinningTest, TheEnvironmentDecidesFirst) {
  EXPECT_THAT(
      openmp_says("export GOMP_SPINCOUNT=77;"),
      HasSubstr("GOMP_SPINCOUNT = '77'"));
  const std::string passive = openmp_says("export OMP_WAIT_POLICY=passive;");
  EXPECT_THAT(passive, HasSubstr("OMP_WAIT_POLICY = 'PASSIVE'"));
  EXPECT_THAT(passive, HasSubstr("GOMP_SPINCOUNT = '0'"));
}

}  // namespace
}  // namespace einforge::cli
