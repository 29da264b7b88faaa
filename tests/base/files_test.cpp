#include "einforge/base/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
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

TEST(Files, AFileLimitIsAnIoErrorInTheSystemsWords) {
  const testing::TemporaryDirectory directory;
  const fs::path path = directory / "a";
  write_file_atomically(path, "old");
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit limit = {.rlim_cur = 1000, .rlim_max = before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  std::string error;
  try {
    write_file_atomically(path, std::string(5000, 'x'));
  } catch (const IoError& caught) {
    error = caught.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(error, "cannot write '" + path.string() + "': File too large");
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(entries(directory.path()), 1U);
}

TEST(Files, WritesThroughLinks) {
  const testing::TemporaryDirectory directory;
  fs::create_directory(directory / "there");
  const fs::path target = directory / "there/a";
  fs::create_symlink("there/a", directory / "link");
  fs::create_symlink(directory / "link", directory / "chain");
  for (const char* text : {"made", "replaced"}) {
    write_file_atomically(directory / "chain", text);
    EXPECT_EQ(read_file(target), text);
  }
  EXPECT_TRUE(fs::is_symlink(directory / "link"));
  EXPECT_TRUE(fs::is_symlink(directory / "chain"));
  EXPECT_EQ(entries(directory / "there"), 1U);
  fs::create_symlink("b", directory / "c");
  fs::create_symlink("c", directory / "b");
  EXPECT_THROW(write_file_atomically(directory / "b", "x"), IoError);
}

TEST(Files, KeepsThePermissionsOfAFileThatItReplaces) {
  const testing::TemporaryDirectory directory;
  write_file_atomically(directory / "a", "secret");
  fs::permissions(directory / "a", fs::perms::owner_read);
  write_file_atomically(directory / "a", "new");
  EXPECT_EQ(fs::status(directory / "a").permissions(), fs::perms::owner_read);
}

// Writes half a file in a process that is then killed.
void kill_while_writing(const fs::path& path) {
  std::array<int, 2> ready{};
  ASSERT_EQ(::pipe(ready.data()), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(path);
    file.write("half");
    static_cast<void>(!::write(ready[1], "x", 1));
    ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(Files, WhatAKilledWriterLeftGoesWithTheNextWrite) {
  const testing::TemporaryDirectory directory;
  const fs::path path = directory / "a";
  for (int i = 0; i < 3; ++i) {
    kill_while_writing(path);
    EXPECT_EQ(entries(directory.path()), 1U);
  }
  // Another's, of a file of another name, and one that is being written.
  kill_while_writing(directory / "b");
  AtomicFile unfinished(path);
  unfinished.write("slow");
  write_file_atomically(path, "quick");
  EXPECT_EQ(entries(directory.path()), 3U);
  unfinished.publish();
  EXPECT_EQ(read_file(path), "slow");
  EXPECT_EQ(entries(directory.path()), 2U);
  // A user's own files stay, whatever they are called.
  File::create(directory / "a.tmp12");
  const FolderLock lock(directory.path());
  EXPECT_EQ(entries(directory.path()), 2U);
  EXPECT_TRUE(fs::exists(directory / "a.tmp12"));
}

TEST(FolderLock, IsHeldByOneUntilItGoes) {
  const testing::TemporaryDirectory directory;
  auto lock = std::make_unique<FolderLock>(directory.path());
  // Nothing in the folder can be removed to get a second one.
  EXPECT_TRUE(fs::is_empty(directory.path()));
  EXPECT_THROW(FolderLock{directory.path()}, InvalidInput);
  FolderLock moved = std::move(*lock);
  lock.reset();
  EXPECT_THROW(FolderLock{directory.path()}, InvalidInput);
}

TEST(FolderLock, GoesWithItsProcess) {
  const testing::TemporaryDirectory directory;
  kill_while_writing(directory / "a");
  const pid_t child = ::fork();
  if (child == 0) {
    const FolderLock lock(directory.path());
    ::raise(SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  const FolderLock lock(directory.path());
  EXPECT_THROW(FolderLock{directory / "none"}, IoError);
}

TEST(TemporaryFolder, SaysWhereItCannotBe) {
  fs::path kept;
  {
    const TemporaryFolder folder;
    kept = folder.path();
    write_file_atomically(kept / "a", "x");
  }
  EXPECT_FALSE(fs::exists(kept));
  const char* before = std::getenv("TMPDIR");
  const std::string saved = before == nullptr ? "" : before;
  ::setenv("TMPDIR", "/no such folder", 1);
  EXPECT_THROW(TemporaryFolder{}, IoError);
  saved.empty() ? ::unsetenv("TMPDIR") : ::setenv("TMPDIR", saved.c_str(), 1);
}

TEST(Files, ReadsStandardInput) {
  const testing::TemporaryDirectory directory;
  write_file_atomically(directory / "a", "from a file");
  const int saved = ::dup(STDIN_FILENO);
  for (const char* name : {"-", "/dev/stdin", "/dev/fd/0"}) {
    const int file = ::open((directory / "a").c_str(), O_RDONLY);
    ::dup2(file, STDIN_FILENO);
    ::close(file);
    EXPECT_EQ(read_input(name), "from a file") << name;
  }
  ::dup2(saved, STDIN_FILENO);
  ::close(saved);
  EXPECT_EQ(read_input(directory / "a"), "from a file");
  EXPECT_THROW(read_input("/dev/fd/x"), InvalidInput);
  EXPECT_THROW(read_input("/dev/fd/999"), IoError);
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
