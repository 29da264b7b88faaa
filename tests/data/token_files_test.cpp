#include "einforge/data/token_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "einforge/data/inspect.h"
#include "einforge/data/prepare.h"
#include "einforge/data/verification.h"
#include "tests/data/temporary_folder.h"

namespace einforge::data {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class TokenFilesTest : public testing::Test {
 protected:
  TokenFilesTest() {
    std::string text;
    for (int i = 0; i < 3000; ++i) {
      text += "line " + std::to_string(i) + "\n";
    }
    PrepareOptions options;
    options.inputs = {folder_.write("in", text)};
    options.out = path();
    options.document_separator = "line";
    options.val_share = 0.3;
    options.progress = false;
    prepare(options);
  }

  fs::path path() const { return folder_.path() / "out"; }

  TemporaryFolder folder_;
};

TEST_F(TokenFilesTest, InspectFindsWhatIsThere) {
  const Inspection inspection = inspect(path());
  EXPECT_EQ(inspection.metadata, read_metadata(path()));
  EXPECT_THAT(inspection.sample, testing::StartsWith("line "));
  // Digits and the letters of "line": between log 5 and log 16.
  EXPECT_GT(inspection.unigram_loss, 1.6);
  EXPECT_LT(inspection.unigram_loss, 2.78);
}

TEST_F(TokenFilesTest, DamagedFoldersAreRejectedWithOneClearLine) {
  struct Case {
    const char* what;
    std::function<void(const fs::path&)> damage;
    const char* message;
  };
  const auto set = [](const char* key, const base::Json& value) {
    return [key, value](const fs::path& folder) {
      base::Json json =
          base::Json::parse(base::read_file(folder / "meta.json"));
      json[key] = value;
      base::write_file_atomically(folder / "meta.json", json.dump());
    };
  };
  const auto write = [](const char* name, const char* text) {
    return [name, text](const fs::path& folder) {
      base::write_file_atomically(folder / name, text);
    };
  };
  const std::vector<Case> cases = {
      {"no folder",
       [](const fs::path& folder) { fs::remove_all(folder); },
       "got nothing there"},
      {"no meta.json",
       [](const fs::path& folder) { fs::remove(folder / "meta.json"); },
       "it has no meta.json"},
      {"no train.bin",
       [](const fs::path& folder) { fs::remove(folder / "train.bin"); },
       "train.bin': no such file"},
      {"truncated train.bin",
       [](const fs::path& folder) {
         fs::resize_file(
             folder / "train.bin", fs::file_size(folder / "train.bin") - 1);
       },
       "as meta.json says; got "},
      {"longer val.bin",
       [](const fs::path& folder) {
         fs::resize_file(
             folder / "val.bin", fs::file_size(folder / "val.bin") + 2);
       },
       "as meta.json says; got "},
      {"empty val.bin", write("val.bin", ""), "got 0"},
      {"meta.json is not JSON", write("meta.json", "{"), "expected JSON"},
      {"meta.json is empty", write("meta.json", ""), "expected JSON"},
      {"meta.json is deep",
       [](const fs::path& folder) {
         base::write_file_atomically(
             folder / "meta.json",
             std::string(100'000, '[') + std::string(100'000, ']'));
       },
       "meta.json': "},
      {"meta.json is long",
       [](const fs::path& folder) {
         base::write_file_atomically(
             folder / "meta.json", std::string(20'000'000, ' ') + "{}");
       },
       "expected at most 16000000 bytes"},
      {"another format", write("meta.json", "{}"), "something else"},
      {"a list", write("meta.json", "[1]"), "something else"},
      {"format of wrong type", set("format", 3), "something else"},
      {"newer version", set("version", 3), "expected version 1 to 2; got 3"},
      {"version of wrong type", set("version", "1"), "something else"},
      {"unknown key", set("tokns", 1), "did you mean 'tokens'"},
      {"another tokeniser", set("tokens", "gpt2"), "got 'gpt2'"},
      {"another vocabulary", set("vocab_size", 65), "got 65"},
      {"other symbols", set("symbols", "abc"), "symbols are not those"},
      {"another dtype", set("dtype", "float"), "got 'float'"},
      {"wider tokens", set("dtype", "uint32"), "as meta.json says; got "},
      {"count of wrong type", set("train", {{"tokens", "many"}}), "whole"},
      {"negative count", set("train", {{"tokens", -1}}), "above 0; got -1"},
      {"huge count",
       set("train", {{"tokens", std::int64_t{1} << 62}}),
       "as meta.json says"},
  };
  for (const Case& c : cases) {
    const TemporaryFolder copies;
    const fs::path copy = copies.path() / "copy";
    fs::copy(path(), copy);
    c.damage(copy);
    EXPECT_THAT(
        [&] { TokenFiles files(copy); },
        testing::ThrowsMessage<base::InvalidInput>(
            testing::AllOf(HasSubstr(c.message), Not(HasSubstr("\n")))))
        << c.what;
  }
}

// Of the same size, so that only the bytes tell.
TEST_F(TokenFilesTest, TokensChangedAfterwardsAreFound) {
  for (const char* name : {"train.bin", "val.bin"}) {
    const std::string bytes = base::read_file(path() / name);
    for (const std::size_t place : {std::size_t{0}, bytes.size() - 2}) {
      std::string changed = bytes;
      changed[place] = static_cast<char>(changed[place] ^ 1);
      base::write_file_atomically(path() / name, changed);
      const TokenFiles files(path());
      const auto message =
          testing::ThrowsMessage<base::InvalidInput>(testing::AllOf(
              HasSubstr(std::string(name) + "': expected hash"),
              HasSubstr("data inspect")));
      EXPECT_THAT([&] { Verification verification(files); }, message);
      EXPECT_THAT(
          [&] {
            const Verification background(files, 0);
            background.wait();
          },
          message);
      EXPECT_THAT([&] { inspect(path()); }, message);
    }
    base::write_file_atomically(path() / name, bytes);
    const TokenFiles files(path());
    EXPECT_NO_THROW(Verification(files).wait());
  }
}

}  // namespace
}  // namespace einforge::data
