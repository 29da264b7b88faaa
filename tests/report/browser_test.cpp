// The page in a real browser; browser_check.py does the looking.
// EINFORGE_SCREENSHOTS=DIR keeps screenshots of it, light, dark and on a phone.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <string>

#include "einforge/base/files.h"
#include "einforge/report/html.h"
#include "einforge/report/json.h"
#include "einforge/report/summary.h"
#include "tests/report/demo_store.h"
#include "tests/store/temporary_store.h"

namespace einforge::report {
namespace {

std::string find_program(std::initializer_list<const char*> names) {
  const char* path = std::getenv("PATH");
  for (const char* name : names) {
    std::string directories = path == nullptr ? "" : path;
    for (std::size_t begin = 0; begin < directories.size();) {
      const std::size_t end =
          std::min(directories.find(':', begin), directories.size());
      const auto file =
          std::filesystem::path(directories.substr(begin, end - begin)) / name;
      if (std::filesystem::exists(file)) {
        return file.string();
      }
      begin = end + 1;
    }
  }
  return "";
}

std::string chromium() {
  return find_program({"chromium", "chromium-browser", "google-chrome"});
}

std::string from_environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

int run_check(const Summary& summary, const std::string& name) {
  const store::testing::TemporaryDirectory directory;
  const std::filesystem::path page = directory / (name + ".html");
  const std::filesystem::path json = directory / (name + ".json");
  base::write_file_atomically(page, to_html(summary));
  base::write_file_atomically(json, dump(to_json(summary)));
  const std::string command = fmt::format(
      "'{}' '{}/tests/report/browser_check.py' '{}' '{}' '{}' {}",
      from_environment("EINFORGE_PYTHON", "python3"),
      from_environment("EINFORGE_SOURCE_DIR", "."),
      chromium(),
      page.string(),
      json.string(),
      from_environment("EINFORGE_SCREENSHOTS", ""));
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

class Browser : public ::testing::Test {
 protected:
  void SetUp() override {
    if (chromium().empty()) {
      GTEST_SKIP() << "no chromium on this machine: apt-get install chromium";
    }
  }

  // The report of the store that `make` leaves at a path.
  static Summary summary_of(
      const std::function<void(const std::filesystem::path&)>& make) {
    const store::testing::TemporaryDirectory directory;
    make(directory / "trials.db");
    return summarise(
        store::Store::open(directory / "trials.db"), {.bootstrap = 200});
  }
};

TEST_F(Browser, ShowsTheReport) {
  EXPECT_EQ(run_check(summary_of(testing::make_demo_store), "demo"), 0);
}

TEST_F(Browser, ShowsAWideSearchAtBothWidths) {
  EXPECT_EQ(run_check(summary_of(testing::make_sweep_store), "sweep"), 0);
}

TEST_F(Browser, IsNotImpressedByNamesAndReasons) {
  EXPECT_EQ(run_check(summary_of(testing::make_hostile_store), "hostile"), 0);
}

TEST_F(Browser, ShowsStoresWithNextToNothing) {
  const auto nothing = [](const std::filesystem::path&) {};
  EXPECT_EQ(run_check(summary_of(nothing), "empty"), 0);
  const auto one = [](const std::filesystem::path& path) {
    store::Store store = store::Store::open(path);
    testing::add_trial(store, "a0", "monarch", store::Status::kDone, {4, 2.5});
  };
  EXPECT_EQ(run_check(summary_of(one), "one"), 0);
  const auto failed = [](const std::filesystem::path& path) {
    store::Store store = store::Store::open(path);
    for (const char* id : {"a0", "a1", "a2"}) {
      testing::add_trial(store, id, "dense", store::Status::kFailed, {});
    }
  };
  EXPECT_EQ(run_check(summary_of(failed), "failed"), 0);
}

// Spread arguments would overflow the script's stack.
TEST_F(Browser, ShowsManyTrials) {
  EXPECT_EQ(
      run_check(
          summarise(
              testing::many_trials(5000, 31),
              {{"name", "large"}},
              {.bootstrap = 0}),
          "large"),
      0);
}

}  // namespace
}  // namespace einforge::report
