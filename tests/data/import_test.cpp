#include "einforge/data/import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/hash.h"
#include "einforge/data/inspect.h"
#include "einforge/data/prepare.h"
#include "einforge/data/token_files.h"
#include "tests/data/documents.h"
#include "tests/data/python.h"
#include "tests/data/temporary_folder.h"

namespace einforge::data {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Tokens = std::vector<std::int64_t>;

// Files that numpy wrote, once for all tests.
class ImportTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shards_ = new TemporaryFolder;
    ASSERT_EQ(run_python({"tests/data/write_shards.py", shards_->path()}), 0);
  }
  static void TearDownTestSuite() {
    delete shards_;
    shards_ = nullptr;
  }

  static std::string shards(const std::string& name) {
    return shards_->path() / name;
  }

  // The int64 at the end of tokens.npy; its header is of no interest here.
  static Tokens expected(const std::string& format) {
    const std::string bytes = base::read_file(shards(format + "/tokens.npy"));
    const std::size_t begin = bytes.find('\n') + 1;
    Tokens tokens((bytes.size() - begin) / 8);
    std::memcpy(tokens.data(), bytes.data() + begin, tokens.size() * 8);
    return tokens;
  }

  ImportOptions options(const std::string& files) const {
    ImportOptions options;
    options.files = {shards(files)};
    options.out = out();
    options.progress = false;
    return options;
  }

  fs::path out() const { return folder_.path() / "out"; }

  static TemporaryFolder* shards_;
  TemporaryFolder folder_;
};
TemporaryFolder* ImportTest::shards_ = nullptr;

TEST_F(ImportTest, EveryFormatGivesTheTokensThatNumpyWrote) {
  struct Case {
    std::string format;
    std::string files;
    std::int64_t vocab_size = 0;
    std::int64_t end_of_text = -1;
    std::string dtype;
  };
  std::vector<Case> cases = {
      {"gpt2", "*train*", 0, -1, "uint16"},
      {"llama3", "*train*", 0, -1, "uint32"},
      {"nanogpt", "train.bin", 50257, 50256, "uint16"},
      {"nanogpt", "train.bin", 50304, 50256, "uint16"},
      {"nanogpt32", "train.bin", 100'000, 99'999, "uint32"}};
  for (const char* type : {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"}) {
    cases.push_back(
        {fmt::format("npy_{}", type),
         "[ab].npy",
         100,
         99,
         fmt::format("uint{}", 8 * (type[1] - '0'))});
  }
  for (const char* type : {"u1", "i1", "i2", "i4", "i8", "u2"}) {
    // Their documents are known without a token.
    cases.push_back(
        {fmt::format("megatron_{}", type),
         type[0] == 'u' ? "*.bin" : "*.idx",
         100,
         -1,
         fmt::format("uint{}", 8 * (type[1] - '0'))});
  }
  for (const Case& c : cases) {
    SCOPED_TRACE(c.format);
    ImportOptions import = options(c.format + "/" + c.files);
    import.vocab_size = c.vocab_size;
    import.end_of_text = c.end_of_text;
    import.val_share = 0.1;
    const Metadata metadata = import_tokens(import);
    EXPECT_EQ(metadata, read_metadata(out()));
    EXPECT_EQ(metadata.dtype, c.dtype);
    const Tokens tokens = expected(c.format);
    const auto size = std::ssize(tokens);
    const TokenFiles files(out());
    EXPECT_EQ(files.train.size() + files.validation.size(), size);
    EXPECT_NEAR(
        static_cast<double>(files.validation.size()) /
            static_cast<double>(size),
        0.1,
        0.05);
    // Cut at sixteen places into whole documents, in the order of the stream.
    const Tokens train = tokens_of(files.train);
    const Tokens validation = tokens_of(files.validation);
    const bool starts = c.format == "gpt2" || c.format == "llama3";
    const std::int64_t end = c.format == "gpt2"     ? 50256
                             : c.format == "llama3" ? 128000
                             : c.end_of_text >= 0   ? c.end_of_text
                                                    : 99;
    for (const Tokens* side : {&train, &validation}) {
      EXPECT_EQ(starts ? side->front() : side->back(), end);
    }
    // A walk through the stream takes each token from one side or the other,
    // and changes sides at a document boundary alone.
    std::size_t at_train = 0;
    std::size_t at_validation = 0;
    int changes = 0;
    bool in_train = true;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const bool boundary =
          i > 0 && (starts ? tokens[i] == end : tokens[i - 1] == end);
      const auto document_is = [&](const Tokens& side, std::size_t at) {
        // To the end of the document; these are all different.
        std::size_t length = 1;
        while (i + length < tokens.size() &&
               !(starts ? tokens[i + length] == end
                        : tokens[i + length - 1] == end)) {
          ++length;
        }
        return at + length <= side.size() &&
               std::equal(
                   tokens.begin() + static_cast<std::ptrdiff_t>(i),
                   tokens.begin() + static_cast<std::ptrdiff_t>(i + length),
                   side.begin() + static_cast<std::ptrdiff_t>(at));
      };
      if (boundary && !document_is(
                          in_train ? train : validation,
                          in_train ? at_train : at_validation)) {
        in_train = !in_train;
        ++changes;
      }
      const Tokens& side = in_train ? train : validation;
      std::size_t& at = in_train ? at_train : at_validation;
      ASSERT_LT(at, side.size());
      ASSERT_EQ(side[at++], tokens[i]) << i;
    }
    EXPECT_EQ(changes, 31);
    const Inspection inspection = inspect(out());
    EXPECT_EQ(inspection.overlap, 0);
    EXPECT_THAT(
        inspection.sample,
        testing::StartsWith(std::to_string(validation.front()) + " "));
    EXPECT_EQ(
        metadata.train.documents + metadata.validation.documents,
        std::ranges::count(tokens, end));
  }
}

TEST_F(ImportTest, FilesOfTheOtherSideAreTakenWhole) {
  ImportOptions import = options("gpt2/*train*");
  import.validation = {shards("gpt2/x_val_000000.bin")};
  const Metadata metadata = import_tokens(import);
  const Tokens tokens = expected("gpt2");
  const TokenFiles files(out());
  EXPECT_EQ(tokens_of(files.train), tokens);
  EXPECT_EQ(
      tokens_of(files.validation),
      Tokens(tokens.begin(), tokens.begin() + 5000));
  EXPECT_EQ(metadata.train.files.size(), 3U);
  EXPECT_EQ(metadata.train.files[1].offset, 1024);
  EXPECT_EQ(metadata.vocab_size, 50257);
  EXPECT_EQ(metadata.end_of_text, 50256);
  // The hash of a side does not depend on how it is cut into shards.
  const std::string bytes = [&] {
    std::string all;
    for (const FileInfo& file : metadata.train.files) {
      all += base::read_file(file.path).substr(1024);
    }
    return all;
  }();
  EXPECT_EQ(metadata.train.hash, base::hash_hex(bytes));
  // Reads across files.
  Tokens window(7000);
  files.train.read(6000, window);
  EXPECT_EQ(window, Tokens(tokens.begin() + 6000, tokens.begin() + 13000));
}

TEST_F(ImportTest, AFewDocumentsAreOnBothSides) {
  // 40 documents of 500 tokens: more than a share of 0.05 of a sixteenth.
  std::string bytes;
  for (int i = 1; i <= 20'000; ++i) {
    const auto token = static_cast<std::uint16_t>(i % 500 == 0 ? 99 : i % 99);
    bytes.append(reinterpret_cast<const char*>(&token), sizeof(token));
  }
  ImportOptions import = options("");
  import.files = {folder_.write("few.bin", bytes)};
  import.vocab_size = 100;
  import.end_of_text = 99;
  const Metadata metadata = import_tokens(import);
  EXPECT_EQ(metadata.train.documents + metadata.validation.documents, 40);
  // A quarter is 5,000 tokens, of which 250 are to be held out: the document
  // that begins there.
  EXPECT_EQ(metadata.validation.tokens, 500 * metadata.validation.documents);
  EXPECT_GE(metadata.validation.documents, 1);
  EXPECT_LE(metadata.validation.documents, 4);
}

TEST_F(ImportTest, NothingIsCopiedAndChangesAreFound) {
  const fs::path copy = folder_.path() / "shards";
  fs::copy(shards("gpt2"), copy);
  ImportOptions import = options("");
  import.files = {copy / "*train*"};
  import_tokens(import);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(out())) {
    names.insert(entry.path().filename());
  }
  EXPECT_EQ(names, std::set<std::string>{"meta.json"});
  const fs::path shard = copy / "x_train_000001.bin";
  const std::string bytes = base::read_file(shard);
  std::string changed = bytes;
  changed[2000] = static_cast<char>(changed[2000] ^ 1);
  base::write_file_atomically(shard, changed);
  EXPECT_THAT(
      [&] { inspect(out()); },
      testing::ThrowsMessage<base::InvalidInput>(
          HasSubstr("x_train_000001.bin': expected hash")));
  base::write_file_atomically(shard, bytes.substr(0, bytes.size() - 2));
  EXPECT_THAT(
      [&] { TokenFiles files(out()); },
      testing::ThrowsMessage<base::InvalidInput>(
          HasSubstr("x_train_000001.bin': expected ")));
  fs::remove(shard);
  EXPECT_THAT(
      [&] { TokenFiles files(out()); },
      testing::ThrowsMessage<base::InvalidInput>(
          HasSubstr("x_train_000001.bin': no such file")));
}

TEST_F(ImportTest, MetadataMayLieBesideTheTokensAndReplacesItselfAlone) {
  fs::copy(shards("nanogpt"), out());
  const std::string bytes = base::read_file(out() / "train.bin");
  ImportOptions import = options("");
  import.files = {out() / "train.bin"};
  import.vocab_size = 50257;
  import.end_of_text = 50256;
  import_tokens(import);
  EXPECT_EQ(import_tokens(import), read_metadata(out()));
  // `data prepare` would write over what was imported.
  const std::string text = folder_.write("in", concatenate(make_documents(99)));
  const auto prepare_there = [&] {
    prepare({.inputs = {text}, .out = out(), .progress = false});
  };
  EXPECT_THAT(
      prepare_there,
      testing::ThrowsMessage<base::InvalidInput>(
          HasSubstr("train.bin of another origin")));
  EXPECT_EQ(base::read_file(out() / "train.bin"), bytes);
  // And the other way round.
  const fs::path prepared = folder_.path() / "prepared";
  prepare({.inputs = {text}, .out = prepared, .progress = false});
  import.out = prepared;
  EXPECT_THAT(
      [&] { import_tokens(import); },
      testing::ThrowsMessage<base::InvalidInput>(
          HasSubstr("meta.json of another origin")));
}

TEST_F(ImportTest, BadFilesAreRefusedWithOneLineThatNamesThem) {
  struct Case {
    std::string file;
    std::string message;
    std::int64_t vocab_size = 0;
  };
  const std::vector<Case> cases = {
      {"magic.bin", "magic number 20240520 or 20240801; got 20240521"},
      {"magic.bin", "20240801; got 20240521", 65'536},
      {"big_endian.bin", "which is big-endian", 65'536},
      {"version.bin", "expected version 1 of magic number 20240520; got 2"},
      {"truncated.bin", "as the header says; got "},
      {"header.bin", "expected a header of 1024 bytes; got 1000: truncated"},
      {"longer.bin", "another kind of file"},
      {"empty.bin", "got an empty file"},
      {"range.bin", "expected tokens below 50257; got 50257 at byte 3024"},
      {"raw.bin", "give --vocab N"},
      {"raw.bin",
       "expected tokens below 50257; got 50260 at byte 14360",
       50257},
      {"odd.bin", "got 3 bytes in all: truncated", 50257},
      {"object.npy", "pickled objects, which are never read", 100},
      {"float.npy", "got dtype '<f8'", 100},
      {"big.npy", "got dtype '>u2'", 100},
      {"record.npy", "got one of structures", 100},
      {"fortran.npy", "got Fortran order", 100},
      {"negative.npy",
       "expected tokens below 100; got 18446744073709551613",
       100},
      {"cut.npy", "truncated", 100},
      {"text.npy", "its first bytes are not \\x93NUMPY", 100},
      {"cut_index.bin", "truncated", 100},
      {"cut_data.idx", "truncated, or not its .bin", 100},
      {"old.bin", "its first bytes are not MMIDIDX", 100},
      {"float.bin",
       "expected tokens of an integer type; got dtype code 7",
       100},
      {"text.bin", "expected tokens; got text", 50257},
      {"text.bin", "expected tokens; got text", 70'000},
      {"nowhere*.bin", "got nothing there"},
  };
  for (const Case& c : cases) {
    ImportOptions import = options("bad/" + c.file);
    import.vocab_size = c.vocab_size;
    import.end_of_text = 0;
    const std::string stem = c.file.substr(0, c.file.find('.'));
    EXPECT_THAT(
        [&] { import_tokens(import); },
        testing::ThrowsMessage<base::InvalidInput>(testing::AllOf(
            HasSubstr(c.message),
            HasSubstr("bad/" + stem),
            Not(HasSubstr("\n")))))
        << c.file;
    EXPECT_FALSE(fs::exists(out())) << c.file;
  }
}

TEST_F(ImportTest, WhatIsNotSaidIsAskedFor) {
  const auto refused = [&](const ImportOptions& import, const char* message) {
    EXPECT_THAT(
        [&] { import_tokens(import); },
        testing::ThrowsMessage<base::InvalidInput>(HasSubstr(message)));
  };
  ImportOptions import = options("npy_u2/[ab].npy");
  refused(import, "give --vocab N");
  import.vocab_size = 100;
  refused(import, "give --end-of-text TOKEN, or files by --val");
  import.end_of_text = 100;
  refused(import, "--end-of-text: expected a token below 100; got 100");
  import.end_of_text = 98;
  EXPECT_NO_THROW(import_tokens(import));
  import.vocab_size = (1 << 24) + 1;
  refused(import, "--vocab: expected at most 16777216");
  import = options("npy_i2/a.npy");
  import.vocab_size = 40'000;
  import.end_of_text = 99;
  refused(import, "expected unsigned tokens for a vocabulary of 40000");
  import.files.push_back(shards("npy_u4/a.npy"));
  refused(import, "expected tokens of 2 bytes as in the first file; got 4");
  import.validation = {import.files[0]};
  refused(import, "expected it on one side; got it by FILES and by --val");
  // By whatever name, and copied.
  const std::string original = shards("npy_i2/a.npy");
  const fs::path link = folder_.path() / "link.npy";
  const fs::path hard = folder_.path() / "hard.npy";
  const fs::path copy = folder_.path() / "copy.npy";
  fs::copy_file(original, copy);
  fs::create_symlink(copy, link);
  fs::create_hard_link(copy, hard);
  import.vocab_size = 100;
  import.files = {copy.string()};
  for (const fs::path& other : {link, hard}) {
    import.validation = {other.string()};
    refused(import, "expected it on one side; got it by FILES and by --val");
  }
  import.validation = {original};
  refused(import, "expected other tokens for the validation side");
  import.validation.clear();
  import.files = {copy.string(), hard.string()};
  refused(import, "expected each file once");
  import = options("gpt2/*train*");
  import.dtype = "uint32";
  refused(import, "expected no --dtype");
  import.dtype.clear();
  import.vocab_size = 10;
  refused(
      import, "--vocab: the shard's end of text: expected a token below 10");
  // A token that never comes divides nothing.
  import = options("nanogpt/train.bin");
  import.vocab_size = 60'000;
  import.end_of_text = 59'999;
  refused(import, "expected documents on both sides");
  import.val_share = 0;
  refused(import, "--val-share");
}

}  // namespace
}  // namespace einforge::data
