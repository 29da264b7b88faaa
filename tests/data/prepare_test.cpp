#include "einforge/data/prepare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>

#include "einforge/base/error.h"
#include "einforge/base/text.h"
#include "einforge/data/inspect.h"
#include "einforge/data/token_files.h"
#include "einforge/data/tokenizer.h"
#include "tests/data/documents.h"
#include "tests/data/temporary_folder.h"

namespace einforge::data {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// Deals `documents` out by where they are found; fails if one is in neither
// place, split, or out of order.
std::pair<std::string, std::string> deal(
    const std::vector<std::string>& documents,
    const std::string& train,
    const std::string& validation) {
  std::pair<std::string, std::string> dealt;
  for (const std::string& document : documents) {
    if (train.compare(dealt.first.size(), document.size(), document) == 0) {
      dealt.first += document;
    } else {
      dealt.second += document;
    }
  }
  EXPECT_EQ(dealt.first, train);
  EXPECT_EQ(dealt.second, validation);
  return dealt;
}

TEST(PrepareTest, EveryDocumentIsWholeOnOneSideInOrder) {
  const TemporaryFolder folder;
  const auto documents = make_documents(2000);
  folder.write("in", concatenate(documents));
  for (const char* tokens : {"chars96", "bytes"}) {
    PrepareOptions options = options_for(folder);
    options.tokens = tokens;
    options.val_share = 0.2;
    const Metadata metadata = prepare(options);
    const TokenFiles files(options.out);
    EXPECT_EQ(files.metadata, metadata);
    deal(
        documents,
        text_of(files.train, tokens),
        text_of(files.validation, tokens));
    EXPECT_EQ(metadata.train.documents + metadata.validation.documents, 2000);
    // Five standard deviations of a binomial with n = 2000, p = 0.2.
    EXPECT_NEAR(metadata.validation.documents, 400, 90);
  }
}

TEST(PrepareTest, SideDependsOnTheDocumentAndTheSeedAlone) {
  const TemporaryFolder folder;
  auto documents = make_documents(300);
  folder.write("in", concatenate(documents));
  PrepareOptions options = options_for(folder);
  options.val_share = 0.3;
  const Metadata first = prepare(options);
  const std::string validation =
      text_of(TokenFiles(options.out).validation, "chars96");
  EXPECT_EQ(prepare(options), first);

  const std::vector<std::string> copies(documents.rbegin(), documents.rend());
  documents.insert(documents.end(), copies.begin(), copies.end());
  folder.write("in", concatenate(documents));
  const Metadata doubled = prepare(options);
  EXPECT_EQ(doubled.validation.documents, 2 * first.validation.documents);
  const std::string both =
      text_of(TokenFiles(options.out).validation, "chars96");
  for (const std::string& document : make_documents(300)) {
    EXPECT_EQ(
        validation.find(document) == std::string::npos,
        both.find(document) == std::string::npos);
  }

  options.seed = 1;
  EXPECT_NE(prepare(options).validation.hash, doubled.validation.hash);
}

TEST(PrepareTest, SeparatorsCutWhereTheySay) {
  struct Case {
    const char* separator;
    std::int64_t documents;
  };
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 100; ++i) {
    text += "a " + std::to_string(i) + "\nb\n\n\n  indented\r\n\r\n";
  }
  for (int i = 0; i < 50; ++i) {
    folder.write("in/" + std::to_string(i), std::to_string(i) + "\n" + text);
  }
  for (const Case& c :
       {Case{"blank-line", 50 * 200},
        Case{"line", 50 * 301},
        Case{"file", 50}}) {
    PrepareOptions options = options_for(folder);
    options.document_separator = c.separator;
    options.val_share = 0.5;
    const Metadata metadata = prepare(options);
    EXPECT_EQ(
        metadata.train.documents + metadata.validation.documents, c.documents)
        << c.separator;
  }
}

TEST(PrepareTest, LongDocumentsStayWhole) {
  const TemporaryFolder folder;
  std::vector<std::string> documents;
  for (int i = 0; i < 8; ++i) {
    auto& document =
        documents.emplace_back(3'000'000, static_cast<char>('a' + i));
    document += '\n';
  }
  folder.write("in", concatenate(documents));
  PrepareOptions options = options_for(folder);
  options.document_separator = "line";
  options.val_share = 0.5;
  prepare(options);
  const TokenFiles files(options.out);
  deal(
      documents,
      text_of(files.train, "chars96"),
      text_of(files.validation, "chars96"));
}

TEST(PrepareTest, LineEndsAndAMissingLastOneMakeNoDifference) {
  const TemporaryFolder folder;
  std::string unix_text;
  std::string dos_text;
  for (int i = 0; i < 200; ++i) {
    const std::string line = "line " + std::to_string(i);
    unix_text += line + "\n\n";
    dos_text += line + "\r\n\r\n";
  }
  unix_text.pop_back();
  folder.write("in", unix_text);
  const Metadata unix_metadata = prepare(options_for(folder));
  unix_text.pop_back();
  folder.write("in", unix_text);
  const Metadata cut_metadata = prepare(options_for(folder));
  dos_text.resize(dos_text.size() - 2);
  folder.write("in", dos_text);
  const Metadata dos_metadata = prepare(options_for(folder));
  EXPECT_EQ(cut_metadata.train, unix_metadata.train);
  EXPECT_EQ(cut_metadata.validation, unix_metadata.validation);
  EXPECT_EQ(dos_metadata.train, unix_metadata.train);
  EXPECT_EQ(dos_metadata.validation, unix_metadata.validation);
  EXPECT_EQ(dos_metadata.replaced.dropped, 399);
  std::erase(dos_text, '\n');
  folder.write("in", dos_text);
  const Metadata mac_metadata = prepare(options_for(folder));
  EXPECT_EQ(mac_metadata.train, unix_metadata.train);
  EXPECT_EQ(mac_metadata.validation, unix_metadata.validation);
  EXPECT_EQ(mac_metadata.replaced.transliterated, 399);
}

// Bitwise, so that folders prepared by other versions stay comparable: the
// hashes are those of version 0.1.
TEST(PrepareTest, PlainAsciiMakesTheFilesItAlwaysMade) {
  const TemporaryFolder folder;
  std::string paragraphs;
  std::string lines;
  for (int i = 0; i < 500; ++i) {
    const std::string name = "document " + std::to_string(i);
    const std::string text(static_cast<std::size_t>(i % 40), 'x');
    paragraphs += name + "\nsays\n  " + text + "!\n\n";
    lines += name + " says " + text + "!\n";
  }
  folder.write("blank-line", paragraphs);
  folder.write("line", lines);
  struct Case {
    const char* tokens;
    const char* separator;
    const char* train;
    const char* validation;
  };
  for (const Case& c : {
           Case{
               "chars96",
               "blank-line",
               "7baa435c01da22e37a99746cb5de1d32",
               "0f3dc7228a083ed80915b8d4d055bc0e"},
           Case{
               "bytes",
               "blank-line",
               "b0baee973960d5b883ef2c79f48ac398",
               "77cd31934e449da082e9fb4f63205ed3"},
           Case{
               "chars96",
               "line",
               "9767e930539e8c9d72eac59203e0fa65",
               "782e83161863dd4354a22318900a4606"},
           Case{
               "bytes",
               "line",
               "c31efd9753a436b9025690a5e688a67d",
               "4681c736787b1133e06f0fbe25427882"},
       }) {
    PrepareOptions options = options_for(folder);
    options.inputs = {folder.path() / c.separator};
    options.tokens = c.tokens;
    options.document_separator = c.separator;
    options.val_share = 0.2;
    const Metadata metadata = prepare(options);
    EXPECT_EQ(metadata.train.hash, c.train) << c.tokens << c.separator;
    EXPECT_EQ(metadata.validation.hash, c.validation);
  }
}

TEST(PrepareTest, ReadsFoldersInOrderWithoutHiddenFilesAndItsOwnOutput) {
  const TemporaryFolder folder;
  std::string expected;
  for (const char* name : {"a", "b/c", "b/d", "e"}) {
    for (int i = 0; i < 20; ++i) {
      expected += std::string(name) + std::to_string(i) + "\n";
    }
  }
  for (const char* name : {"e", "b/d", "a", "b/c"}) {
    std::string text;
    for (int i = 0; i < 20; ++i) {
      text += std::string(name) + std::to_string(i) + "\n";
    }
    folder.write(std::string("in/") + name, text);
  }
  folder.write("in/.hidden", "no\n");
  folder.write("in/b/README.md", "no\n");
  folder.write("in/.git/objects", "no\n");
  folder.write("in/empty", "");
  std::filesystem::create_symlink("nowhere", folder.path() / "in/dangling");
  std::filesystem::create_symlink("loop", folder.path() / "in/loop");
  std::filesystem::create_symlink("..", folder.path() / "in/b/up");
  PrepareOptions options = options_for(folder);
  options.out = folder.path() / "in/out";
  options.document_separator = "line";
  options.val_share = 0.3;
  const Metadata metadata = prepare(options);
  options.out = folder.path() / "in/../in/out";
  EXPECT_EQ(prepare(options), metadata);  // now in/out is there
  EXPECT_EQ(metadata.sources.at(0).files, 5);
  EXPECT_EQ(
      metadata.sources.at(0).bytes, static_cast<std::int64_t>(expected.size()));
  const TokenFiles files(options.out);
  std::vector<std::string> lines;
  for (const std::string& line : base::split(expected, '\n')) {
    if (!line.empty()) {
      lines.push_back(line + "\n");
    }
  }
  deal(
      lines,
      text_of(files.train, "chars96"),
      text_of(files.validation, "chars96"));
}

TEST(PrepareTest, BadInputIsOneClearLine) {
  struct Case {
    const char* what;
    std::function<void(PrepareOptions&)> spoil;
    const char* message;
  };
  const TemporaryFolder folder;
  const std::string root = folder.path();
  folder.write("in", concatenate(make_documents(50)));
  folder.write("empty", "");
  folder.write("binary", std::string("text\0more", 9));
  folder.write(
      "packed.xz",
      std::string(
          "\xFD"
          "7zXZ\0",
          6));
  folder.write("empty_folder/.hidden", "x");
  folder.write("foreign/train.bin", "nanoGPT's own");
  folder.write("foreign_meta/meta.json", "{\"vocab\": 65}");
  folder.write("utf16", std::string("\xff\xfe\x41\x04", 4));
  folder.write("utf16be", "\xfe\xff\x04\x41");
  folder.write("utf32", std::string("\xff\xfe\0\0\x41\0\0\0", 8));
  folder.write("blank", "\n\n  \n\t\n");
  folder.write("run/config.json", "{}");
  folder.write("search/trials.db", "");
  folder.write("checkpoint/model.safetensors", "");
  const std::vector<Case> cases = {
      {"missing",
       [&](auto& o) { o.inputs = {root + "/nowhere"}; },
       "/nowhere': expected a text file or a folder"},
      {"empty",
       [&](auto& o) { o.inputs = {root + "/empty"}; },
       "expected text; got an empty file"},
      {"empty beside text",
       [&](auto& o) { o.inputs.push_back(root + "/empty"); },
       "expected text; got an empty file"},
      {"binary",
       [&](auto& o) { o.inputs = {root + "/binary"}; },
       "expected text; got a binary file (a NUL byte at 4)"},
      {"packed",
       [&](auto& o) { o.inputs = {root + "/packed.xz"}; },
       "pipe `xz -dc "},
      {"folder without files",
       [&](auto& o) { o.inputs = {root + "/empty_folder"}; },
       "got no file in it"},
      {"no input", [&](auto& o) { o.inputs = {}; }, "got none"},
      {"standard input twice",
       [&](auto& o) { o.inputs = {"-", "-"}; },
       "expected '-' once"},
      {"tokens",
       [](auto& o) { o.tokens = "char96"; },
       "*.model); got 'char96' (did you mean 'chars96'?)"},
      {"separator",
       [](auto& o) { o.document_separator = "blankline"; },
       "did you mean 'blank-line'?"},
      {"share 0", [](auto& o) { o.val_share = 0; }, "between 0 and 1; got 0"},
      {"share 1", [](auto& o) { o.val_share = 1; }, "between 0 and 1; got 1"},
      {"share nan",
       [](auto& o) { o.val_share = std::nan(""); },
       "between 0 and 1; got nan"},
      {"UTF-16",
       [&](auto& o) { o.inputs = {root + "/utf16"}; },
       "got UTF-16: pipe `iconv -f UTF-16 -t UTF-8 "},
      {"UTF-16, big end first",
       [&](auto& o) { o.inputs = {root + "/utf16be"}; },
       "got UTF-16: "},
      {"UTF-32", [&](auto& o) { o.inputs = {root + "/utf32"}; }, "UTF-32"},
      {"blank lines alone",
       [&](auto& o) { o.inputs = {root + "/blank"}; },
       "got nothing but blank lines"},
      {"a training run's folder",
       [&](auto& o) { o.out = root + "/run"; },
       "training run or search (it holds config.json)"},
      {"a search's folder",
       [&](auto& o) { o.out = root + "/search"; },
       "training run or search (it holds trials.db)"},
      {"a checkpoint",
       [&](auto& o) { o.out = root + "/checkpoint"; },
       "training run or search (it holds model.safetensors)"},
      {"one document",
       [](auto& o) { o.document_separator = "file"; },
       "expected documents on both sides"},
      {"another program's files",
       [&](auto& o) { o.out = root + "/foreign"; },
       "a train.bin of another origin"},
      {"another program's metadata",
       [&](auto& o) { o.out = root + "/foreign_meta"; },
       "a meta.json of another origin"},
  };
  for (const Case& c : cases) {
    PrepareOptions options = options_for(folder);
    c.spoil(options);
    EXPECT_THAT(
        [&] { prepare(options); },
        testing::ThrowsMessage<base::InvalidInput>(
            testing::AllOf(HasSubstr(c.message), Not(HasSubstr("\n")))))
        << c.what;
    EXPECT_FALSE(fs::exists(folder.path() / "out")) << c.what;
  }
  EXPECT_EQ(folder.read("foreign/train.bin"), "nanoGPT's own");
}

TEST(PrepareTest, MemoryDoesNotGrowWithTheText) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer keeps what was freed";
#endif
  const TemporaryFolder folder;
  const std::string block = concatenate(make_documents(20'000));
  {
    std::ofstream stream(folder.path() / "in", std::ios::binary);
    for (int i = 0; i < 100; ++i) {
      stream << block;
    }
  }
  ASSERT_GT(fs::file_size(folder.path() / "in"), 50'000'000U);
  const pid_t child = ::fork();
  if (child == 0) {
    rusage before{};
    rusage after{};
    ::getrusage(RUSAGE_SELF, &before);
    prepare(options_for(folder));
    ::getrusage(RUSAGE_SELF, &after);
    ::_exit(after.ru_maxrss - before.ru_maxrss < 20'000 ? 0 : 1);  // KiB
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(PrepareTest, NumpyReadsTheFilesAsNanoGptDoes) {
  const TemporaryFolder folder;
  const std::string source = std::getenv("EINFORGE_SOURCE_DIR");
  for (const char* tokens : {"chars96", "bytes"}) {
    PrepareOptions options = options_for(folder);
    options.tokens = tokens;
    options.inputs = {source + "/examples/data/jargon.txt"};
    prepare(options);
    const std::string command = std::string(std::getenv("EINFORGE_PYTHON")) +
                                " " + source + "/tests/data/recount.py " +
                                options.out.string() + " " +
                                options.inputs.front();
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
  }
}

}  // namespace
}  // namespace einforge::data
