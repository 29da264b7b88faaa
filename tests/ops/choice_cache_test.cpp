#include "einforge/ops/cuda/choice_cache.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "einforge/base/files.h"
#include "tests/base/temporary_directory.h"

namespace einforge::ops {
namespace {

class ChoiceCacheTest : public ::testing::Test {
 protected:
  // As another process sees it, or "" where it is not there.
  std::string stored(const std::string& version, const std::string& problem) {
    const auto choice = ChoiceCache(file_, version).find(problem);
    return choice ? choice->name : "";
  }

  base::testing::TemporaryDirectory directory_;
  std::filesystem::path file_ = directory_.path() / "deep" / "choices.json";
};

TEST_F(ChoiceCacheTest, RemembersAcrossProcesses) {
  ChoiceCache cache(file_, "one");
  EXPECT_FALSE(cache.find("a"));
  EXPECT_EQ(cache.insert("a", {.name = "fused"}), "fused");
  cache.insert("b", {.name = "bmm", .is_settled = false});
  EXPECT_EQ(cache.find("a")->name, "fused");
  const ChoiceCache again(file_, "one");
  EXPECT_EQ(again.find("a")->name, "fused");
  EXPECT_TRUE(again.find("a")->is_settled);
  EXPECT_EQ(again.find("b")->name, "bmm");
  EXPECT_FALSE(again.find("b")->is_settled);
  EXPECT_TRUE(cache.is_own("b"));
  EXPECT_FALSE(again.is_own("b"));
}

TEST_F(ChoiceCacheTest, KeepsVersionsApart) {
  ChoiceCache(file_, "one").insert("a", {.name = "fused"});
  ChoiceCache two(file_, "two");
  EXPECT_FALSE(two.find("a"));
  two.insert("a", {.name = "bmm"});
  EXPECT_EQ(stored("one", "a"), "fused");
  EXPECT_EQ(stored("two", "a"), "bmm");
}

TEST_F(ChoiceCacheTest, LosesNoneOfManyWriters) {
  constexpr int kWriters = 6;
  constexpr int kEntries = 25;
  std::vector<std::thread> writers;
  for (int writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([&, writer] {
      ChoiceCache cache(file_, writer % 2 == 0 ? "even" : "odd");
      for (int i = 0; i < kEntries; ++i) {
        cache.insert(std::to_string(100 * writer + i), {.name = "fused"});
      }
    });
  }
  for (std::thread& writer : writers) {
    writer.join();
  }
  for (int writer = 0; writer < kWriters; ++writer) {
    const ChoiceCache cache(file_, writer % 2 == 0 ? "even" : "odd");
    for (int i = 0; i < kEntries; ++i) {
      EXPECT_TRUE(cache.find(std::to_string(100 * writer + i)))
          << writer << ' ' << i;
    }
  }
}

TEST_F(ChoiceCacheTest, SeesWhatOthersWroteWhenAsked) {
  ChoiceCache one(file_, "v");
  ChoiceCache two(file_, "v");
  one.insert("a", {.name = "fused"});
  two.insert("b", {.name = "bmm"});
  EXPECT_FALSE(one.find("b"));
  one.refresh();
  EXPECT_EQ(one.find("b")->name, "bmm");
}

// What was measured while something else ran gives way, in either order.
TEST_F(ChoiceCacheTest, PrefersSettledChoices) {
  ChoiceCache loaded(file_, "v");
  ChoiceCache idle(file_, "v");
  EXPECT_EQ(loaded.insert("a", {.name = "bmm", .is_settled = false}), "bmm");
  EXPECT_EQ(stored("v", "a"), "bmm");
  EXPECT_EQ(idle.insert("a", {.name = "fused"}), "fused");
  EXPECT_EQ(stored("v", "a"), "fused");
  // A process that has used its choice keeps it.
  loaded.refresh();
  EXPECT_EQ(loaded.find("a")->name, "bmm");
  // One that has not takes the settled one.
  ChoiceCache late(file_, "v");
  EXPECT_EQ(late.insert("a", {.name = "bmm", .is_settled = false}), "fused");
  EXPECT_EQ(late.find("a")->name, "fused");
  EXPECT_EQ(stored("v", "a"), "fused");
}

TEST_F(ChoiceCacheTest, TakesADamagedFileForAnEmptyOne) {
  base::make_directory(file_.parent_path());
  for (const char* damaged :
       {"",
        "{\"v\": {\"a\": ",
        "[1, 2]",
        "{\"v\": 7}",
        "{\"v\": {\"a\": \"fused\"}}",
        "{\"v\": {\"a\": {\"name\": \"fused\"}}}",
        "{\"v\": {\"a\": {\"name\": 7, \"settled\": true}}}"}) {
    base::write_file_atomically(file_, damaged);
    ChoiceCache cache(file_, "v");
    EXPECT_FALSE(cache.find("a")) << damaged;
    cache.insert("a", {.name = "fused"});
    EXPECT_EQ(stored("v", "a"), "fused") << damaged;
  }
}

TEST_F(ChoiceCacheTest, WorksWhereNothingCanBeWritten) {
  base::write_file_atomically(directory_.path() / "file", "");
  ChoiceCache cache(directory_.path() / "file" / "choices.json", "v");
  ::testing::internal::CaptureStderr();
  cache.insert("a", {.name = "fused"});
  cache.insert("b", {.name = "fused"});
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(cache.find("a")->name, "fused");
  EXPECT_NE(said.find("not stored"), std::string::npos);
  EXPECT_EQ(said.find("not stored"), said.rfind("not stored"));
}

}  // namespace
}  // namespace einforge::ops
