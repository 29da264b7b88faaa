#include "einforge/data/library_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/hash.h"
#include "einforge/data/document_sink.h"
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

fs::path example_text() {
  return fs::path(setting("EINFORGE_SOURCE_DIR", ".")) /
         "examples/data/devil.txt";
}

bool has(const std::string& package) {
  const std::string command = fmt::format(
      "{} -c 'import {}' 2> /dev/null",
      base::shell_word(setting("EINFORGE_PYTHON", "python3")),
      package);
  return std::system(command.c_str()) == 0;
}

// Makes small tokenizers where their libraries are.
class LibraryTokenizerTest : public testing::Test {
 protected:
  void make(const std::vector<std::string>& names) const {
    std::vector<std::string> words = {
        "tests/data/libraries.py", "make", folder_.path(), example_text()};
    words.insert(words.end(), names.begin(), names.end());
    ASSERT_EQ(run_python(words), 0);
  }

  std::string made(const std::string& name) const {
    return folder_.path() / name;
  }

  PrepareOptions options(const std::string& input, const std::string& tokens) {
    PrepareOptions options;
    options.inputs = {input};
    options.out = out();
    options.tokens = made(tokens);
    options.val_share = 0.2;
    options.progress = false;
    return options;
  }

  fs::path out() const { return folder_.path() / "out"; }

  // Prepares both texts and has the library say the same.
  void compare(const std::string& tokens, const std::string& pattern = "") {
    const std::string text = folder_.write(
        "text", base::read_file(example_text()) + std::string("\n"));
    const std::string random = made("random.txt");
    ASSERT_EQ(
        run_python({"tests/data/libraries.py", "random", random, "200000"}), 0);
    for (const std::string& source : {text, random}) {
      PrepareOptions prepared = options(source, tokens);
      prepared.pattern = pattern;
      const Metadata metadata = prepare(prepared);
      EXPECT_EQ(metadata, read_metadata(out()));
      EXPECT_EQ(
          base::hash_hex(base::read_file(out() / metadata.tokenizer.file)),
          base::hash_hex(base::read_file(made(tokens))));
      EXPECT_EQ(
          run_python({"tests/data/libraries.py", "check", out(), source}), 0)
          << tokens << " of " << source;
    }
  }

  TemporaryFolder folder_;
};

TEST_F(LibraryTokenizerTest, JsonGivesTheTokensOfItsLibrary) {
  if (!has("tokenizers")) {
    GTEST_SKIP() << "the Python package tokenizers is not installed";
  }
  make({"bpe.json", "wordpiece.json", "unigram.json", "wide.json"});
  compare("bpe.json");
  EXPECT_EQ(read_metadata(out()).vocab_size, 2003);  // with what was added
  EXPECT_EQ(read_metadata(out()).dtype, "uint16");
  EXPECT_EQ(read_metadata(out()).end_of_text, 0);
  compare("wordpiece.json");
  EXPECT_EQ(read_metadata(out()).end_of_text, 1);  // [SEP]
  compare("unigram.json");
  EXPECT_EQ(read_metadata(out()).end_of_text, -1);
  compare("wide.json");
  EXPECT_EQ(read_metadata(out()).vocab_size, 72'000);
  EXPECT_EQ(read_metadata(out()).dtype, "uint32");
  EXPECT_THAT(inspect(out()).sample, HasSubstr("x"));
  // The folder's copy is compared with its hash.
  base::write_file_atomically(
      out() / "tokenizer.json", base::read_file(made("bpe.json")));
  EXPECT_THAT(
      [&] { inspect(out()); },
      testing::ThrowsMessage<base::InvalidInput>(AllOf(
          HasSubstr("out/tokenizer.json': expected the tokenizer of hash"),
          HasSubstr("changed since"))));
}

TEST_F(LibraryTokenizerTest, RanksGiveTheTokensOfTiktoken) {
  if (!has("tiktoken") || !has("tokenizers")) {
    GTEST_SKIP() << "the Python package tiktoken is not installed";
  }
  make({"ranks.tiktoken"});
  EXPECT_THAT(
      [&] { compare("ranks.tiktoken"); },
      testing::ThrowsMessage<base::InvalidInput>(
          HasSubstr("--pattern gpt2|cl100k|o200k")));
  compare("ranks.tiktoken", "gpt2");
  EXPECT_EQ(
      read_metadata(out()).end_of_text, read_metadata(out()).vocab_size - 1);
  // Llama 3's name for such a file.
  fs::copy(made("ranks.tiktoken"), folder_.path() / "tokenizer.model");
  EXPECT_EQ(
      TokenizerFile(folder_.path() / "tokenizer.model").kind(), "tiktoken");
}

TEST_F(LibraryTokenizerTest, ModelsGiveTheTokensOfSentencePiece) {
  if (!has("sentencepiece")) {
    GTEST_SKIP() << "the Python package sentencepiece is not installed";
  }
  make({"piece_bpe.model", "piece_unigram.model"});
  compare("piece_bpe.model");
  EXPECT_EQ(read_metadata(out()).end_of_text, 2);
  compare("piece_unigram.model");
}

TEST_F(LibraryTokenizerTest, LongDocumentsAndBytesThatAreNotUtf8) {
  if (!has("tokenizers")) {
    GTEST_SKIP() << "the Python package tokenizers is not installed";
  }
  make({"bpe.json"});
  LibraryTokenizer whole("tokenizer.json", made("bpe.json"), "");
  // Cut where it makes no difference.
  std::string text;
  const std::string all = base::read_file(example_text());
  for (int i = 0; text.size() < 3 * LibrarySink::kLongestPiece; ++i) {
    text += all;
    text.erase(text.find_last_not_of('\n') + 1);
    text += fmt::format("\nline {}\n", i);
  }
  // One document a file.
  PrepareOptions prepared = options(folder_.write("in/a", text), "bpe.json");
  for (int i = 0; i < 20; ++i) {
    prepared.inputs.push_back(
        folder_.write(fmt::format("in/{}", i), fmt::format("{}", i)));
  }
  // Bytes at the end of a file wait for no others.
  prepared.inputs.push_back(
      folder_.write("in/b", "caf\xe9 \xf0\x9f\x98\x80 \xf0\x9f"));
  prepared.document_separator = "file";
  testing::internal::CaptureStderr();
  const Metadata metadata = prepare(prepared);
  EXPECT_THAT(
      testing::internal::GetCapturedStderr(),
      HasSubstr("3 bytes are not UTF-8 and became U+FFFD"));
  EXPECT_EQ(metadata.replaced.invalid_bytes, 3);
  auto expected = whole.encode(text);
  expected.push_back(whole.end_of_text());
  const TokenFiles files(out());
  std::string decoded;
  bool found = false;
  for (const TokenStream* side : {&files.train, &files.validation}) {
    const auto tokens = tokens_of(*side);
    decoded += whole.decode(tokens);
    found =
        found || (tokens.size() >= expected.size() &&
                  std::equal(expected.begin(), expected.end(), tokens.begin()));
  }
  EXPECT_TRUE(found) << "the long document is on neither side";
  EXPECT_THAT(
      decoded, HasSubstr("caf\xef\xbf\xbd \xf0\x9f\x98\x80 \xef\xbf\xbd\n<"));
}

// Another Python while there is one.
class Python {
 public:
  explicit Python(const std::string& path)
      : before_(setting("EINFORGE_PYTHON", "python3")) {
    ::setenv("EINFORGE_PYTHON", path.c_str(), 1);
  }
  Python(const Python&) = delete;
  Python& operator=(const Python&) = delete;
  ~Python() { ::setenv("EINFORGE_PYTHON", before_.c_str(), 1); }

 private:
  std::string before_;
};

TEST_F(LibraryTokenizerTest, WhatCannotBeReadIsOneLine) {
  const auto refused = [&](const std::string& file,
                           const std::string& message) {
    PrepareOptions prepared =
        options(folder_.write("in", concatenate(make_documents(99))), "");
    prepared.tokens = file;
    EXPECT_THAT(
        [&] { prepare(prepared); },
        testing::ThrowsMessage<base::InvalidInput>(
            testing::AllOf(HasSubstr(message), Not(HasSubstr("\n")))))
        << file;
    EXPECT_FALSE(fs::exists(out()));
  };
  refused(folder_.path() / "no.json", "no.json': no such file");
  refused(folder_.write("empty.json", ""), "got an empty file");
  refused("tokens.txt", "*.model); got 'tokens.txt'");
  if (has("tokenizers")) {
    make({"bpe.json"});
    refused(folder_.write("bad.json", "{}"), "bad.json': tokenizer.json: ");
    const Python none("/nonexistent/python");
    refused(made("bpe.json"), "cannot run '/nonexistent/python'");
  }
  // A Python without any package.
  const std::string bare =
      folder_.write("bare", "#!/bin/sh\nexec python3 -I -S \"$@\"\n");
  fs::permissions(bare, fs::perms::owner_all);
  const Python python(bare);
  refused(
      folder_.write("any.json", "{}"),
      "expected the Python package tokenizers; ");
  refused(folder_.write("any.tiktoken", "aa 1"), "-m pip install tiktoken");
  refused(folder_.write("any.model", "\n\x0a"), "-m pip install sentencepiece");
}

}  // namespace
}  // namespace einforge::data
