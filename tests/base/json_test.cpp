#include "einforge/base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "einforge/base/error.h"
#include "einforge/base/safetensors.h"

namespace einforge::base {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string error_of(std::string_view text) {
  try {
    parse_json(text, "x.json");
  } catch (const InvalidInput& error) {
    EXPECT_FALSE(try_parse_json(text).has_value());
    return error.what();
  }
  return "no error";
}

TEST(Json, ReadsWhatTheLibraryReads) {
  for (const char* text :
       {"null",
        "[]",
        "{}",
        "-1",
        "18446744073709551615",
        "0.1",
        R"({"b":[1,[2,{"c":null}],true],"a":{"":"\u00e9\n"}})"}) {
    EXPECT_EQ(parse_json(text, "x"), Json::parse(text)) << text;
    EXPECT_EQ(dump_json(parse_json(text, "x")), Json::parse(text).dump());
  }
}

TEST(Json, SaysWhereAndWhatInPlainWords) {
  for (const char* text :
       {"",
        "{",
        "[1,]",
        "nul",
        "{\"a\":1,\"a\":2}",
        "1 2",
        "\"\xff\"",
        "1e999",
        "\x1b[31m"}) {
    SCOPED_TRACE(text);
    EXPECT_THAT(error_of(text), HasSubstr("x.json: expected JSON; "));
    EXPECT_THAT(error_of(text), Not(HasSubstr("json.exception")));
    EXPECT_LT(error_of(text).size(), 300U);
  }
  EXPECT_THAT(error_of("[1,\n 2,,]"), HasSubstr("line 2, column 4"));
  EXPECT_THAT(error_of(R"({"a":1,"a":2})"), HasSubstr("'a' is there twice"));
}

TEST(Json, IsNoDeeperThanAStack) {
  const auto nested = [](std::size_t depth, const char* open, char close) {
    std::string text;
    for (std::size_t i = 0; i < depth; ++i) {
      text += open;
    }
    return text + "1" + std::string(depth, close);
  };
  EXPECT_EQ(error_of(nested(kDeepestJson, "[", ']')), "no error");
  EXPECT_EQ(error_of(nested(kDeepestJson, "{\"a\":", '}')), "no error");
  for (const std::size_t depth : {kDeepestJson + 1, 100'000}) {
    EXPECT_THAT(error_of(nested(depth, "[", ']')), HasSubstr("64 levels"));
    EXPECT_THAT(error_of(nested(depth, "{\"a\":", '}')), HasSubstr("64 level"));
  }
}

TEST(Json, ReplacesWhatIsNoUtf8) {
  EXPECT_EQ(dump_json(Json("caf\xe9")), "\"caf\ufffd\"");
}

// Seconds of this process, the fastest of three times: other work on the
// machine does not count.
template <typename F>
double seconds(F&& f) {
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    const std::clock_t start = std::clock();
    f();
    best = std::min(
        best, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  return best;
}

// 50 times as many take 2,500 times as long where each is looked up among all.
TEST(Json, TakesTimeLinearInItsKeys) {
  const auto text = [](int keys) {
    std::string object = "{";
    for (int i = 0; i < keys; ++i) {
      object += fmt::format(
          R"({}"key{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
          i > 0 ? "," : "",
          i);
    }
    return object + "}";
  };
  const std::string few = text(1'000);
  const std::string many = text(50'000);
  EXPECT_LT(seconds([&] { parse_json(many, "x"); }), 50 * 6 * seconds([&] {
                                                       parse_json(few, "x");
                                                     }));
  const auto file = [](const std::string& header) {
    const std::uint64_t length = header.size();
    std::string bytes(sizeof(length), '\0');
    std::memcpy(bytes.data(), &length, sizeof(length));
    return bytes + header;
  };
  const auto read = [](const std::string& bytes) {
    return parse_safetensors(std::as_bytes(std::span(bytes))).tensors.size();
  };
  const std::string small = file(few);
  const std::string large = file(many);
  EXPECT_EQ(read(large), 50'000U);
  EXPECT_LT(
      seconds([&] { read(large); }), 50 * 6 * seconds([&] { read(small); }));
}

}  // namespace
}  // namespace einforge::base
