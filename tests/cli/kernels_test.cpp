#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

#include "einforge/base/json.h"
#include "tests/base/temporary_directory.h"
#include "tests/cli/program.h"

namespace einforge::cli {
namespace {

using base::Json;

// A run's kernels are compiled once, and others than another size's.
TEST(Kernels, AreBuiltBeforehand) {
  const base::testing::TemporaryDirectory directory;
  ::setenv("EINFORGE_CACHE_DIR", directory.path().c_str(), 1);
  const std::string config = (directory.path() / "mlp.toml").string();
  std::ofstream(config) << "[model]\nkind = \"mlp\"\nlayers = 2\nwidth = 64\n"
                           "[model.structure]\nall = \"monarch\"\n";
  const auto build = [&](const std::string& setting) {
    const RunResult result =
        run_einforge({"kernels", "build", config, "--set", setting, "--json"});
    return result.exit_code == 0 ? Json::parse(result.out)
                                 : Json{{"error", result.err}};
  };
  const Json first = build("seed=1");
  if (first.contains("error") &&
      first["error"].get<std::string>().find("NVRTC") != std::string::npos) {
    GTEST_SKIP() << "no NVRTC on this machine";
  }
  EXPECT_GT(first.at("kernels"), 0) << first;
  EXPECT_EQ(first.at("compiled"), first.at("kernels"));
  const Json again = build("seed=2");
  EXPECT_EQ(again.at("kernels"), first.at("kernels"));
  EXPECT_EQ(again.at("compiled"), 0);
  EXPECT_EQ(build("model.structure.all=dense").at("kernels"), 0);

  ::setenv("EINFORGE_CACHE_DIR", "/proc/cannot_be_written", 1);
  const RunResult result = run_einforge({"kernels", "build", config, "--json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(Json::parse(result.out).at("failed"), first.at("kernels"));
  ::unsetenv("EINFORGE_CACHE_DIR");
}

}  // namespace
}  // namespace einforge::cli
