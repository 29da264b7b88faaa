// The page in a real browser; browser_check.py does the looking.
// EINFORGE_SCREENSHOTS=DIR keeps screenshots of it, light, dark and on a phone.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <string>

#include "einforge/base/files.h"
#include "einforge/report/html.h"
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

std::string from_environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

int run_check(const std::filesystem::path& page) {
  const std::string chromium =
      find_program({"chromium", "chromium-browser", "google-chrome"});
  const std::string command = fmt::format(
      "'{}' '{}/tests/report/browser_check.py' '{}' '{}' {}",
      from_environment("EINFORGE_PYTHON", "python3"),
      from_environment("EINFORGE_SOURCE_DIR", "."),
      chromium,
      page.string(),
      from_environment("EINFORGE_SCREENSHOTS", ""));
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Browser, ShowsTheReport) {
  if (find_program({"chromium", "chromium-browser", "google-chrome"}).empty()) {
    GTEST_SKIP() << "no chromium on this machine: apt-get install chromium";
  }
  const store::testing::TemporaryDirectory directory;
  testing::make_demo_store(directory / "trials.db");
  SummaryOptions options;
  options.bootstrap = 200;
  base::write_file_atomically(
      directory / "report.html",
      to_html(summarise(
          store::Store::open_read_only(directory / "trials.db"), options)));
  EXPECT_EQ(run_check(directory / "report.html"), 0);
}

}  // namespace
}  // namespace einforge::report
