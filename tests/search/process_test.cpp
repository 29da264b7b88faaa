#include "einforge/search/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include "einforge/base/error.h"
#include "tests/search/promises.h"
#include "tests/search/testing.h"

namespace einforge::search {
namespace {

using ::testing::HasSubstr;

void sleep_ms(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

bool dies_within_a_second(const std::string& name) {
  for (int i = 0; i < 200 && process_alive(name); ++i) {
    sleep_ms(5);
  }
  return !process_alive(name);
}

std::vector<base::Json> wait_for_events(Child& child) {
  // Other lines may come before an event, on their own.
  for (int i = 0; i < 20; ++i) {
    pollfd file = {child.event_file(), POLLIN, 0};
    ::poll(&file, 1, 100);
    auto events = child.events();
    if (!events.empty()) {
      return events;
    }
  }
  return {};
}

TEST(Process, KnowsTheLivingFromTheDead) {
  const std::string self = process_name(::getpid());
  EXPECT_TRUE(process_alive(self));
  EXPECT_FALSE(process_alive(self + "0")) << "another start time";
  EXPECT_FALSE(process_alive("elsewhere" + self)) << "another host";
  EXPECT_FALSE(process_alive(""));
  EXPECT_FALSE(process_alive("::"));
  EXPECT_FALSE(process_alive("host:abc:12"));
}

TEST(Process, AZombieIsDead) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::pause();
    ::_exit(0);
  }
  const std::string name = process_name(pid);
  EXPECT_TRUE(process_alive(name));
  ::kill(pid, SIGKILL);
  EXPECT_TRUE(dies_within_a_second(name));  // and nobody has waited for it
  ::waitpid(pid, nullptr, 0);
  EXPECT_FALSE(process_alive(name));
  EXPECT_EQ(process_name(pid), "");
}

TEST(Child, TalksAndEnds) {
  const testing::TemporaryFolder folder;
  Child child(
      {.command =
           {"/bin/sh",
            "-c",
            "echo '{\"n\": 1}'; echo noise; echo oops >&2; read word; "
            "echo \"{\\\"word\\\": \\\"$word $COLOR\\\"}\"; exit 3"},
       .environment = {{"COLOR", "red"}},
       .log = folder / "log"});
  EXPECT_TRUE(process_alive(child.name()));
  auto events = wait_for_events(child);
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0]["n"], 1);
  child.send("hello");
  events = wait_for_events(child);
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0]["word"], "hello red");
  std::string how;
  for (int i = 0; i < 200 && !child.exited(how); ++i) {
    sleep_ms(5);
  }
  EXPECT_EQ(how, "exit code 3");
  EXPECT_EQ(testing::read(folder / "log"), "oops\n");
}

TEST(Child, TellsTheSignal) {
  const testing::TemporaryFolder folder;
  Child child({.command = {"/bin/sleep", "60"}, .log = folder / "log"});
  ::kill(child.pid(), SIGKILL);
  std::string how;
  for (int i = 0; i < 200 && !child.exited(how); ++i) {
    sleep_ms(5);
  }
  EXPECT_EQ(how, "signal 9 (Killed)");
}

TEST(Child, IsGoneWithItsHandle) {
  const testing::TemporaryFolder folder;
  std::string name;
  {
    const Child child({.command = {"/bin/sleep", "60"}, .log = folder / "log"});
    name = child.name();
    EXPECT_TRUE(process_alive(name));
  }
  EXPECT_FALSE(process_alive(name));
}

TEST(Child, DiesWithItsParent) {
  testing::promise("When the search dies, its workers die with it.");
  const testing::TemporaryFolder folder;
  const std::filesystem::path file = folder / "name";
  const pid_t parent = ::fork();
  if (parent == 0) {
    const Child child({.command = {"/bin/sleep", "60"}, .log = folder / "log"});
    std::ofstream(file) << child.name() << std::endl;
    ::pause();
    ::_exit(0);
  }
  std::string name;
  for (int i = 0; i < 400 && !name.ends_with("\n"); ++i) {
    sleep_ms(5);
    name = testing::read(file);
  }
  ASSERT_FALSE(name.empty());
  name.pop_back();
  EXPECT_TRUE(process_alive(name));
  ::kill(parent, SIGKILL);
  ::waitpid(parent, nullptr, 0);
  EXPECT_TRUE(dies_within_a_second(name));
}

TEST(Child, CannotWriteItsLog) {
  EXPECT_THROW(
      Child({.command = {"/bin/true"}, .log = "/nowhere/at/all/log"}),
      base::IoError);
}

}  // namespace
}  // namespace einforge::search
