#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "einforge/base/text.h"
#include "tests/cli/program.h"

namespace einforge::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string printed(const std::vector<std::string>& arguments) {
  const RunResult result = run_einforge(arguments);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  return result.out;
}

// The words after "Commands:" in a help page.
std::vector<std::string> commands_in(const std::string& page) {
  std::vector<std::string> commands;
  const std::size_t begin = page.find("\nCommands:\n");
  if (begin == std::string::npos) {
    return commands;
  }
  const std::size_t end = page.find("\nOptions:\n", begin);
  for (const std::string& line :
       base::split(page.substr(begin, end - begin), '\n')) {
    if (line.starts_with("  ") && line.size() > 2 && line[2] != ' ') {
      commands.push_back(line.substr(2, line.find(' ', 2) - 2));
    }
  }
  return commands;
}

void check_pages(const std::vector<std::string>& command, int& pages) {
  SCOPED_TRACE(fmt::format("{}", fmt::join(command, " ")));
  std::vector<std::string> words = {"help"};
  words.insert(words.end(), command.begin(), command.end());
  const std::string page = printed(words);
  ++pages;
  words = command;
  words.push_back("--help");
  EXPECT_EQ(printed(words), page);
  EXPECT_THAT(page, HasSubstr("Usage: einforge"));
  EXPECT_THAT(page, HasSubstr("-h, --help "));
  // The words of the library that parses.
  for (const char* word :
       {":INT",
        ":FLOAT",
        ":TEXT",
        ":{",
        " in {",
        " in range",
        "REQUIRED",
        "Positionals",
        "Excludes"}) {
    EXPECT_THAT(page, Not(HasSubstr(word)));
  }
  for (const char* word : {" INT", " FLOAT"}) {
    EXPECT_THAT(page, Not(HasSubstr(word)));
  }
  for (const std::string& line : base::split(page, '\n')) {
    EXPECT_LE(line.size(), 82U) << line;
  }
  const std::vector<std::string> below = commands_in(page);
  if (below.empty()) {
    EXPECT_THAT(page, HasSubstr("Example"));
    EXPECT_THAT(page, HasSubstr("einforge " + command.front()));
  }
  for (const std::string& name : below) {
    std::vector<std::string> next = command;
    next.push_back(name);
    check_pages(next, pages);
  }
}

TEST(HelpTest, EveryCommandHasAPageWithExamples) {
  int pages = 0;
  check_pages({}, pages);
  EXPECT_GE(pages, 9);
}

TEST(HelpTest, VersionIsOneWord) {
  EXPECT_EQ(printed({"-V"}), printed({"--version"}));
  EXPECT_THAT(printed({"-V"}), testing::MatchesRegex("[0-9.]+\n"));
}

TEST(HelpTest, TheManualPageHasEveryCommand) {
  const std::string page = printed({"help", "--man"});
  EXPECT_THAT(page, testing::StartsWith(".TH EINFORGE 1 "));
  for (const std::string& name : commands_in(printed({"help"}))) {
    EXPECT_THAT(page, HasSubstr("einforge " + name));
  }
}

TEST(HelpTest, BashCompletesCommandsAndOptions) {
  const auto complete = [](const std::string& words, int current) {
    const RunResult result = run_program(
        {"bash",
         "-c",
         "source <(\"$0\" help --completion bash); COMP_WORDS=(" + words +
             "); COMP_CWORD=" + std::to_string(current) +
             "; _einforge; echo \"${COMPREPLY[*]}\"",
         einforge_path()});
    return base::trim(result.out);
  };
  EXPECT_EQ(complete("einforge repo", 1), "report");
  EXPECT_EQ(
      complete("/usr/bin/einforge data ''", 2),
      "prepare import inspect --help");
  EXPECT_EQ(complete("einforge data prepare --se", 3), "--seed");
  EXPECT_THAT(printed({"help", "--completion", "fish"}), HasSubstr("complete"));
  EXPECT_EQ(run_einforge({"help", "--completion", "csh"}).exit_code, 2);
}

}  // namespace
}  // namespace einforge::cli
