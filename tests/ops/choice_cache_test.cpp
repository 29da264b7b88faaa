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
  base::testing::TemporaryDirectory directory_;
  std::filesystem::path file_ = directory_.path() / "deep" / "choices.json";
};

TEST_F(ChoiceCacheTest, RemembersAcrossProcesses) {
  ChoiceCache cache(file_, "one");
  EXPECT_EQ(cache.find("a"), std::nullopt);
  cache.insert("a", "fused");
  cache.insert("b", "bmm");
  EXPECT_EQ(cache.find("a"), "fused");
  const ChoiceCache again(file_, "one");
  EXPECT_EQ(again.find("a"), "fused");
  EXPECT_EQ(again.find("b"), "bmm");
}

TEST_F(ChoiceCacheTest, KeepsVersionsApart) {
  ChoiceCache(file_, "one").insert("a", "fused");
  ChoiceCache two(file_, "two");
  EXPECT_EQ(two.find("a"), std::nullopt);
  two.insert("a", "bmm");
  EXPECT_EQ(ChoiceCache(file_, "one").find("a"), "fused");
  EXPECT_EQ(ChoiceCache(file_, "two").find("a"), "bmm");
}

TEST_F(ChoiceCacheTest, AddsToWhatAnotherProcessWrote) {
  ChoiceCache one(file_, "v");
  ChoiceCache two(file_, "v");
  one.insert("a", "fused");
  two.insert("b", "bmm");
  const ChoiceCache both(file_, "v");
  EXPECT_EQ(both.find("a"), "fused");
  EXPECT_EQ(both.find("b"), "bmm");
}

TEST_F(ChoiceCacheTest, TakesADamagedFileForAnEmptyOne) {
  base::make_directory(file_.parent_path());
  for (const char* damaged :
       {"",
        "{\"v\": {\"a\": ",
        "[1, 2]",
        "{\"v\": 7}",
        "{\"v\": {\"a\": 7}}"}) {
    base::write_file_atomically(file_, damaged);
    ChoiceCache cache(file_, "v");
    EXPECT_EQ(cache.find("a"), std::nullopt) << damaged;
    cache.insert("a", "fused");
    EXPECT_EQ(ChoiceCache(file_, "v").find("a"), "fused") << damaged;
  }
}

TEST_F(ChoiceCacheTest, WorksWhereNothingCanBeWritten) {
  base::write_file_atomically(directory_.path() / "file", "");
  ChoiceCache cache(directory_.path() / "file" / "choices.json", "v");
  ::testing::internal::CaptureStderr();
  cache.insert("a", "fused");
  cache.insert("b", "fused");
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(cache.find("a"), "fused");
  EXPECT_NE(said.find("not kept"), std::string::npos);
  EXPECT_EQ(said.find("not kept"), said.rfind("not kept"));
}

}  // namespace
}  // namespace einforge::ops
