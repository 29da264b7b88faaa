#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <iostream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "einforge/data/inspect.h"
#include "einforge/data/prepare.h"
#include "einforge/data/staged_folder.h"
#include "tests/data/documents.h"
#include "tests/data/temporary_folder.h"

// What a data folder holds when `prepare` fails, is killed or runs twice.

namespace einforge::data {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.insert(entry.path().filename());
  }
  return names;
}

// The files of the data folder, and nothing else in it.
std::string contents(const TemporaryFolder& folder) {
  EXPECT_THAT(
      names_in(folder.path() / "out"),
      testing::ElementsAre("meta.json", "train.bin", "val.bin"));
  return folder.read("out/meta.json") + folder.read("out/train.bin") +
         folder.read("out/val.bin");
}

class PublicationTest : public testing::Test {
 protected:
  PublicationTest() {
    folder_.write("in", concatenate(make_documents(100)));
    first_ = prepare(options_);
    folder_.write("in2", concatenate(make_documents(120)));
    second_options_.inputs = {folder_.path() / "in2"};
    second_options_.out = folder_.path() / "out2";
    second_ = prepare(second_options_);
    second_options_.out = options_.out;
  }

  fs::path out() const { return options_.out; }

  TemporaryFolder folder_;
  PrepareOptions options_ = options_for(folder_);
  PrepareOptions second_options_ = options_;
  Metadata first_;
  Metadata second_;
};

// Runs `work` in a child that is killed after so many microseconds, if it is
// still there.
template <typename Work>
void kill_after(std::int64_t microseconds, Work&& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      work();
    } catch (const std::exception&) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  const auto end = std::chrono::steady_clock::now() +
                   std::chrono::microseconds(microseconds);
  while (std::chrono::steady_clock::now() < end) {
    if (::waitpid(child, &status, WNOHANG) == child) {
      return;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, &status, 0), child);
}

TEST_F(PublicationTest, AFailureLeavesTheOldFolderAsItWas) {
  const std::string before = contents(folder_);
  const std::string large = concatenate(make_documents(100'000));
  folder_.write("in", large + std::string(1, '\0'));
  EXPECT_THROW(prepare(options_), base::InvalidInput);
  EXPECT_EQ(contents(folder_), before);

  // A full disk, as a limit on the size of files.
  folder_.write("in", large);
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  auto* const handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {.rlim_cur = 1 << 20, .rlim_max = limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THROW(prepare(options_), base::IoError);
  ::setrlimit(RLIMIT_FSIZE, &limit);
  ::signal(SIGXFSZ, handler);
  EXPECT_EQ(contents(folder_), before);

  // And with the disk's help it works.
  prepare(options_);
  EXPECT_NE(contents(folder_), before);
  EXPECT_NO_THROW(inspect(out()));
}

TEST_F(PublicationTest, AFailureLeavesNoFolderThatWasMade) {
  options_.inputs = {folder_.write("binary", std::string("a\0b", 3))};
  options_.out = folder_.path() / "new/folders/out";
  EXPECT_THROW(prepare(options_), base::InvalidInput);
  EXPECT_FALSE(fs::exists(folder_.path() / "new"));

  fs::create_directory(folder_.path() / "new");
  EXPECT_THROW(prepare(options_), base::InvalidInput);
  EXPECT_THAT(names_in(folder_.path() / "new"), testing::IsEmpty());
}

TEST_F(PublicationTest, OutputThatCannotBeWrittenIsAnIoError) {
  options_.out = folder_.path() / "in/below_a_file";
  EXPECT_THROW(prepare(options_), base::IoError);
  options_.out = "/proc/einforge";
  EXPECT_THROW(prepare(options_), base::IoError);
  options_.out = "/dev/full";
  EXPECT_THROW(prepare(options_), base::IoError);
}

TEST_F(PublicationTest, OneWritesAtATime) {
  const StagedFolder other(out());
  EXPECT_THAT(
      [&] { prepare(options_); },
      testing::ThrowsMessage<base::InvalidInput>(HasSubstr("one does")));
  EXPECT_EQ(inspect(out()).metadata, first_);
}

TEST_F(PublicationTest, AFolderThatWasReplacedIsNotPublishedTo) {
  StagedFolder other(out());
  fs::remove_all(out());
  prepare(second_options_);
  EXPECT_THROW(other.publish(), base::IoError);
  EXPECT_EQ(inspect(out()).metadata, second_);
}

TEST_F(PublicationTest, KilledBeforePublishingItLeavesTheOldFolder) {
  const std::string before = contents(folder_);
  // A pipe, so that the child is surely in the middle when it is killed.
  const fs::path pipe = folder_.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    options_.inputs = {pipe};
    prepare(options_);
    ::_exit(0);
  }
  std::ofstream stream(pipe, std::ios::binary);
  const std::string text = concatenate(make_documents(20'000));
  for (int i = 0; i < 8; ++i) {
    stream << text;
  }
  stream.flush();
  EXPECT_GT(fs::file_size(out() / ".incomplete/train.bin"), 0U);
  ::kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(inspect(out()).metadata, first_);

  // The next one takes away what was left.
  EXPECT_NO_THROW(prepare(options_));
  EXPECT_EQ(contents(folder_), before);
}

// As if killed after 0, 1, 2 and 3 of the files were moved.
TEST_F(PublicationTest, KilledWhilePublishingItHasTheNewFiles) {
  for (std::size_t moved = 0; moved <= 3; ++moved) {
    prepare(options_);
    const std::string before = contents(folder_);
    fs::create_directory(out() / ".complete");
    const std::array names = {"train.bin", "val.bin", "meta.json"};
    for (std::size_t i = 0; i < names.size(); ++i) {
      const char* name = names[i];
      fs::copy_file(
          folder_.path() / "out2" / name,
          i < moved ? out() / name : out() / ".complete" / name,
          fs::copy_options::overwrite_existing);
    }
    EXPECT_EQ(inspect(out()).metadata, second_) << moved;
    if (moved % 2 == 0) {
      // Whatever becomes of the next run.
      options_.inputs = {folder_.path() / "nowhere"};
      EXPECT_THROW(prepare(options_), base::InvalidInput);
      EXPECT_EQ(inspect(out()).metadata, second_) << moved;
      options_.inputs = {folder_.path() / "in"};
    }
    prepare(options_);
    EXPECT_EQ(contents(folder_), before);
  }
}

TEST_F(PublicationTest, KilledAtAnyTimeItHasTheOldFilesOrTheNew) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 10; ++i) {
    kill_after(1'000'000'000, [&] { prepare(options_); });
  }
  const auto each = std::chrono::duration_cast<std::chrono::microseconds>(
      (std::chrono::steady_clock::now() - start) / 10);
  base::Random random(1);
  std::set<std::string> seen;
  for (int i = 0; i < 60; ++i) {
    const bool second = i % 2 == 0;
    kill_after(
        static_cast<std::int64_t>(
            random.below(static_cast<std::uint64_t>(each.count()) * 2)),
        [&] { prepare(second ? second_options_ : options_); });
    const Metadata metadata = inspect(out()).metadata;
    ASSERT_TRUE(metadata == first_ || metadata == second_);
    seen.insert(metadata.train.hash);
  }
  EXPECT_EQ(seen.size(), 2U) << "some were killed after they had published";
  EXPECT_EQ(prepare(second_options_), second_);
  EXPECT_EQ(contents(folder_).empty(), false);
}

// What version 0.1 left when it was killed.
TEST_F(PublicationTest, LeftoversOfAnotherVersionAreCleared) {
  fs::rename(out() / "meta.json", out() / "meta.json.tmp");
  folder_.write("out/train.bin.tmp", "half");
  folder_.write("out/val.bin.tmp", "half");
  prepare(options_);
  contents(folder_);
}

// Writers and readers of one folder: writers succeed or say that another is at
// work, readers see one of the two contents.
TEST_F(PublicationTest, ManyAtOnceLeaveAWholeFolder) {
  std::vector<pid_t> children;
  for (int i = 0; i < 6; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      const int rounds = i == 5 ? 300 : 15;
      for (int round = 0; round < rounds; ++round) {
        try {
          if (i < 4) {
            prepare(i % 2 == 0 ? options_ : second_options_);
          } else {
            const Metadata metadata =
                i == 4 ? inspect(out()).metadata : read_metadata(out());
            if (metadata != first_ && metadata != second_) {
              ::_exit(3);
            }
          }
        } catch (const base::InvalidInput& error) {
          if (i >= 4 ||
              std::string(error.what()).find("one does") == std::string::npos) {
            ::_exit(4);
          }
        } catch (const std::exception&) {
          ::_exit(5);
        }
      }
      ::_exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(WEXITSTATUS(status), 0);
    EXPECT_TRUE(WIFEXITED(status));
  }
  const Metadata metadata = inspect(out()).metadata;
  EXPECT_TRUE(metadata == first_ || metadata == second_);
  contents(folder_);
}

}  // namespace
}  // namespace einforge::data
