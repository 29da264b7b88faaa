#include "einforge/base/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <system_error>

#include "einforge/base/json.h"

namespace einforge::base {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string message_of(const std::function<void()>& fails) {
  try {
    fails();
  } catch (const std::exception& error) {
    return base::message_of(error);
  }
  return "no error";
}

TEST(MessageOf, IsWhatWeSaid) {
  EXPECT_EQ(
      message_of([] { throw InvalidInput("a: expected 1; got 2"); }),
      "a: expected 1; got 2");
  EXPECT_EQ(
      message_of([] { throw_io_error("cannot write 'a'", ENOSPC); }),
      "cannot write 'a': No space left on device");
}

TEST(MessageOf, IsOnePrintableShortLine) {
  EXPECT_EQ(
      message_of([] { throw InvalidInput("'a\nb\x1b[1m\xff'"); }),
      "'a\\nb\\x1b[1m\\xff'");
  EXPECT_LE(
      message_of([] { throw InvalidInput(std::string(100'000, 'x')); }).size(),
      1000U);
}

TEST(MessageOf, HasNoLibrarysMarks) {
  const std::vector<std::pair<std::function<void()>, const char*>> cases = {
      {[] { std::stoll("x"); }, "internal error"},
      {[] { std::map<int, int>().at(1); }, "internal error"},
      {[] { std::vector<int>().at(1); }, "internal error"},
      {[] { static_cast<void>(std::string("a").substr(2)); }, "internal error"},
      {[] { std::function<void()>()(); }, "internal error"},
      {[] { throw std::bad_alloc(); }, "out of memory"},
      {[] { static_cast<void>(std::filesystem::file_size("/no file")); },
       "'/no file': No such file or directory"},
      {[] { const Json json = Json::parse("[1,"); }, "line 1, column"},
      {[] { static_cast<void>(Json("a").get<int>()); },
       "type must be number, but is string"},
      {[] {
         throw std::runtime_error(
             "[enforce fail at alloc_cpu.cpp:117] err == 0. "
             "DefaultCPUAllocator: can't allocate memory: you tried to "
             "allocate 1234567890 bytes. Error code 12 (Cannot allocate "
             "memory)\nException raised from alloc_cpu");
       },
       "out of memory: 1.23GB could not be allocated"},
      {[] { throw std::runtime_error("[bmm] expected 3; got 2\nframe #0"); },
       "[bmm] expected 3; got 2"},
  };
  for (const auto& [fails, part] : cases) {
    const std::string message = message_of(fails);
    EXPECT_THAT(message, HasSubstr(part));
    for (const char* mark :
         {"json.exception",
          "enforce fail",
          "Allocator",
          "Error code",
          "filesystem error",
          "std::",
          "stoll",
          "::at",
          "\n"}) {
      EXPECT_THAT(message, Not(HasSubstr(mark)));
    }
  }
}

TEST(ExitCodeOf, TellsOurFaultFromTheUsers) {
  EXPECT_EQ(exit_code_of(InvalidInput("")), 2);
  EXPECT_EQ(exit_code_of(std::invalid_argument("")), 2);
  EXPECT_EQ(exit_code_of(IoError("")), 1);
  EXPECT_EQ(exit_code_of(std::bad_alloc()), 1);
}

}  // namespace
}  // namespace einforge::base
