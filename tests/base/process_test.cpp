#include "einforge/base/process.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <string>

#include "einforge/base/files.h"
#include "tests/base/temporary_directory.h"

namespace einforge::base {
namespace {

TEST(ProcessTest, AMappedFileThatIsCutShortIsOneLine) {
  const testing::TemporaryDirectory directory;
  const auto path = directory / "tokens.bin";
  const std::size_t size = std::size_t{1} << 16;
  write_file_atomically(path, std::string(size, 'x'));
  const auto read_after_cut = [&] {
    prepare_process();
    const MappedFile file(path);
    std::filesystem::resize_file(path, 1);
    ::_exit(file.bytes()[size - 1] == std::byte{'x'} ? 0 : 3);
  };
  EXPECT_EXIT(
      read_after_cut(),
      ::testing::ExitedWithCode(1),
      "^einforge: error: a file was cut short[^\n]*\n$");
}

}  // namespace
}  // namespace einforge::base
