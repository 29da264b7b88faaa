#include "einforge/base/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "einforge/base/error.h"
#include "tests/base/temporary_directory.h"

namespace einforge::base {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::size_t entries(const fs::path& directory) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(directory), {}));
}

TEST(Files, WritesAndReadsBack) {
  const testing::TemporaryDirectory directory;
  const fs::path path = directory / "a";
  const std::string binary("a\0b\nc", 5);
  write_file_atomically(path, binary);
  EXPECT_EQ(read_file(path), binary);
  write_file_atomically(path, "");
  EXPECT_EQ(read_file(path), "");
  EXPECT_EQ(entries(directory.path()), 1U);
}

TEST(Files, AFailedWriteLeavesTheOldFileAndNoOther) {
  const testing::TemporaryDirectory directory;
  const fs::path path = directory / "a";
  // The file cannot take the place of a directory that is not empty.
  fs::create_directories(path / "b");
  EXPECT_THROW(write_file_atomically(path, "new"), IoError);
  EXPECT_TRUE(fs::is_directory(path / "b"));
  EXPECT_EQ(entries(directory.path()), 1U);
  EXPECT_THROW(write_file_atomically(directory / "none/a", "new"), IoError);
}

TEST(Files, FullDiskIsAnIoErrorInItsOwnWords) {
  if (!fs::exists("/dev/full")) {
    GTEST_SKIP() << "no /dev/full";
  }
  const testing::TemporaryDirectory directory;
  const fs::path path = directory / "a";
  write_file_atomically(path, "old");
  // The name that the temporary file will have leads to the full device.
  fs::create_symlink(
      "/dev/full", fs::path(path).concat(".tmp" + std::to_string(::getpid())));
  try {
    write_file_atomically(path, "new");
    FAIL();
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), HasSubstr("No space left on device"));
    EXPECT_THAT(error.what(), HasSubstr(path.string()));
  }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(entries(directory.path()), 1U);
}

TEST(Files, APipeIsWrittenToNotReplaced) {
  const testing::TemporaryDirectory directory;
  const fs::path pipe = directory / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  write_file_atomically(pipe, "through");
  std::string text(16, ' ');
  text.resize(
      static_cast<std::size_t>(::read(reader, text.data(), text.size())));
  ::close(reader);
  EXPECT_EQ(text, "through");
  EXPECT_TRUE(fs::is_fifo(pipe));
}

TEST(Files, MissingAndSpecialFilesAreInvalidInput) {
  const testing::TemporaryDirectory directory;
  EXPECT_THROW(read_file(directory / "none"), InvalidInput);
  EXPECT_THROW(read_file(directory.path()), InvalidInput);
  EXPECT_THROW(read_file("/dev/null"), InvalidInput);
}

TEST(Files, MakesDirectories) {
  const testing::TemporaryDirectory directory;
  make_directory(directory / "a/b/c");
  EXPECT_TRUE(fs::is_directory(directory / "a/b/c"));
  make_directory(directory / "a/b/c");
  write_file_atomically(directory / "file", "x");
  EXPECT_THROW(make_directory(directory / "file"), IoError);
  EXPECT_THROW(make_directory(directory / "file/below"), IoError);
}

TEST(MappedFile, MapsMovesAndOutlivesTheName) {
  const testing::TemporaryDirectory directory;
  std::string content(100'000, 'x');
  content.back() = 'y';
  write_file_atomically(directory / "a", content);
  MappedFile first(directory / "a");
  MappedFile second(std::move(first));
  MappedFile third;
  third = std::move(second);
  fs::remove(directory / "a");
  const auto bytes = third.bytes();
  ASSERT_EQ(bytes.size(), content.size());
  EXPECT_TRUE(std::equal(
      bytes.begin(), bytes.end(), content.begin(), [](auto b, char c) {
        return static_cast<char>(b) == c;
      }));
  write_file_atomically(directory / "empty", "");
  EXPECT_TRUE(MappedFile(directory / "empty").bytes().empty());
  EXPECT_TRUE(MappedFile().bytes().empty());
  EXPECT_THROW(MappedFile(directory / "none"), InvalidInput);
}

}  // namespace
}  // namespace einforge::base
