#include "einforge/base/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "einforge/base/files.h"
#include "tests/base/temporary_directory.h"

namespace einforge::base {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Inner {
  double rate = 0.5;
  std::vector<std::string> names = {"a"};

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("rate", self.rate, "how fast");
    visit("names", self.names, "which");
  }
  bool operator==(const Inner&) const = default;
};

struct Outer {
  std::int64_t width = 64;
  std::int32_t small = 1;
  std::uint32_t count = 2;
  bool fast = false;
  std::string name = "x";
  std::vector<std::int64_t> widths = {1, 2};
  Inner inner;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("width", self.width, "features");
    visit("small", self.small, "a narrow type");
    visit("count", self.count, "an unsigned type");
    visit("fast", self.fast, "a flag");
    visit("name", self.name, "a word");
    visit("widths", self.widths, "a list");
    visit("inner", self.inner, "nested");
  }
  bool operator==(const Outer&) const = default;
};

Outer read(const char* text) {
  Outer config;
  update_from_json(config, parse_json(text, "text"));
  return config;
}

std::string error_of(const char* text) {
  try {
    read(text);
  } catch (const InvalidInput& error) {
    return error.what();
  }
  return "no error";
}

TEST(Config, RoundTripsThroughJson) {
  Outer config;
  config.width = 1024;
  config.fast = true;
  config.name = "caf\xc3\xa9 \"quoted\"";
  config.widths = {};
  config.inner.rate = 1.0 / 3;
  config.inner.names = {"p", "q"};
  Outer back;
  update_from_json(back, parse_json(dump_json(to_json(config)), "text"));
  EXPECT_EQ(back, config);
}

TEST(Config, KeepsWhatIsNotNamed) {
  const Outer config = read(R"({"inner": {"rate": 2}})");
  EXPECT_EQ(config.inner.rate, 2);
  EXPECT_EQ(config.inner.names, Inner{}.names);
  EXPECT_EQ(config.width, 64);
  EXPECT_EQ(read("{}"), Outer{});
}

TEST(Config, TakesWhatPeopleWrite) {
  EXPECT_EQ(read(R"({"width": 1e6})").width, 1000000);
  EXPECT_EQ(read(R"({"width": 4.0})").width, 4);
  EXPECT_EQ(read(R"({"widths": 7})").widths, std::vector<std::int64_t>{7});
  EXPECT_EQ(read(R"({"inner": {"rate": 1}})").inner.rate, 1);
}

TEST(Config, SaysWhatWasExpectedAndWhatCame) {
  const std::vector<std::pair<const char*, std::vector<const char*>>> cases = {
      {R"({"widht": 1})", {"'widht'", "did you mean 'width'?"}},
      {R"({"inner": {"rat": 1}})", {"'inner.rat'", "'inner.rate'"}},
      {R"({"zzz": 1})", {"'zzz'", "known here: width, small"}},
      {R"({"width": "64"})", {"width: expected a whole number", "\"64\""}},
      {R"({"width": 1.5})", {"a whole number", "1.5"}},
      {R"({"width": 1e300})", {"a whole number", "1e+300"}},
      {R"({"width": 18446744073709551615})", {"a whole number"}},
      {R"({"small": 3000000000})", {"small: expected a whole number"}},
      {R"({"small": 3e9})", {"small: expected a whole number"}},
      {R"({"count": -1})", {"count: expected a whole number", "-1"}},
      {R"({"fast": 1})", {"fast: expected true or false; got 1"}},
      {R"({"name": null})", {"name: expected a string; got null"}},
      {R"({"widths": [1, "a"]})", {"widths: expected a whole number"}},
      {R"({"widths": [[1]]})", {"widths: expected a whole number; got [1]"}},
      {R"({"inner": 3})", {"inner: expected a table; got 3"}},
      {R"([1])", {"config: expected a table; got [1]"}},
  };
  for (const auto& [text, parts] : cases) {
    SCOPED_TRACE(text);
    for (const char* part : parts) {
      EXPECT_THAT(error_of(text), HasSubstr(part));
    }
    EXPECT_THAT(error_of(text), Not(HasSubstr("\n")));
  }
}

TEST(Config, RejectsNumbersThatAreNone) {
  Json json;
  json["inner"]["rate"] = std::numeric_limits<double>::quiet_NaN();
  Outer config;
  EXPECT_THROW(update_from_json(config, json), InvalidInput);
  json["inner"]["rate"] = std::numeric_limits<double>::infinity();
  EXPECT_THROW(update_from_json(config, json), InvalidInput);
}

TEST(Config, LongAndForeignValuesStayOneShortLine) {
  Json json;
  json["width"] = std::string(1000, '\xff') + "\n";
  Outer config;
  try {
    update_from_json(config, json);
    FAIL();
  } catch (const InvalidInput& error) {
    EXPECT_LT(std::string(error.what()).size(), 120U);
    EXPECT_THAT(error.what(), Not(HasSubstr("\n")));
  }
}

TEST(ConfigFile, ReadsTomlAndJsonAlike) {
  const testing::TemporaryDirectory directory;
  write_file_atomically(
      directory / "a.toml",
      "width = 128\nwidths = [3, 4]\n[inner]\nrate = 0.25\nnames = [\"z\"]\n");
  write_file_atomically(
      directory / "a.json",
      R"({"width": 128, "widths": [3, 4],
          "inner": {"rate": 0.25, "names": ["z"]}})");
  Outer from_toml;
  update_from_json(from_toml, read_config_file(directory / "a.toml"));
  Outer from_json;
  update_from_json(from_json, read_config_file(directory / "a.json"));
  EXPECT_EQ(from_toml, from_json);
  EXPECT_EQ(from_toml.inner.rate, 0.25);
}

TEST(ConfigFile, NamesFileLineAndColumn) {
  const testing::TemporaryDirectory directory;
  const auto error_of_file = [&](const char* name, std::string_view text) {
    write_file_atomically(directory / name, text);
    try {
      read_config_file(directory / name);
    } catch (const InvalidInput& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  std::string error = error_of_file("a.toml", "width = 1\nname = = 2\n");
  EXPECT_THAT(error, HasSubstr("a.toml'"));
  EXPECT_THAT(error, HasSubstr("line 2, 'name = = 2': "));
  error = error_of_file("a.json", "{\"width\": 1,\n \"name\": }");
  EXPECT_THAT(error, HasSubstr("a.json'"));
  EXPECT_THAT(error, HasSubstr("line 2, column 10"));
  EXPECT_THAT(error, Not(HasSubstr("\n")));
  EXPECT_THAT(
      error_of_file("b.toml", "day = 2024-01-02\n"), HasSubstr("dates"));
  EXPECT_THAT(error_of_file("c.toml", "\xff\xfe"), HasSubstr("TOML"));
  // Deep enough to overflow the stack of a recursive reader.
  for (const char* name : {"deep.json", "deep.toml"}) {
    std::string deep = name[5] == 't' ? "width = " : "{\"width\": ";
    deep += std::string(200000, '[');
    EXPECT_THAT(error_of_file(name, deep), HasSubstr(name));
    deep += std::string(200000, ']');
    deep += name[5] == 't' ? "" : "}";
    EXPECT_THAT(error_of_file(name, deep), HasSubstr(name));
  }
  EXPECT_THROW(read_config_file(directory / "none.toml"), InvalidInput);
}

// The library recurses over brackets, and over the tables that dots make.
TEST(ConfigFile, TakesNoDeeperKeysThanAStackDoes) {
  const auto dotted = [](int keys) {
    std::string key = "a";
    for (int i = 1; i < keys; ++i) {
      key += i % 3 == 0 ? R"( . "b c")" : ".a";
    }
    return key;
  };
  const auto error_of = [](const std::string& text) {
    try {
      parse_config(text, "a.toml");
    } catch (const InvalidInput& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  std::string nested;  // inline tables, few
  for (int i = 0; i < 200; ++i) {
    nested += dotted(60) + " = {";
  }
  for (const std::string& text :
       {dotted(100'000) + " = 1",
        "[" + dotted(100'000) + "]\n",
        "[[" + dotted(100'000) + "]]\n",
        "x = {" + dotted(100'000) + " = 1}",
        nested + std::string(200, '}'),
        "s = \"\"\"\n\\\"\"\" # '\nt = 'a'\n" + dotted(100'000) + " = 1",
        "s = \"\\\"\" # '\n" + dotted(100'000) + " = 1"}) {
    EXPECT_THAT(error_of(text), HasSubstr("a.toml")) << text.substr(0, 40);
  }
  EXPECT_THAT(error_of(dotted(100) + " = 1"), HasSubstr("64 levels"));
  EXPECT_EQ(
      error_of(dotted(60) + " = 1\n[b]\n" + dotted(60) + " = 2"), "no error");
  // Dots that are no keys.
  const std::string dots(200, '.');
  EXPECT_EQ(
      error_of(
          "# a." + dots + "\na = '" + dots + "' # " + dots + "\nb = \"\\\"" +
          dots + "\"\nc = \"\"\"\n\"" + dots + "\n\"\"\"\nd = '''" + dots +
          "'''\n"),
      "no error");
  std::string numbers = "e = [";
  for (int i = 0; i < 200; ++i) {
    numbers += "0.5, \n";
  }
  EXPECT_EQ(error_of(numbers + "]"), "no error");
}

TEST(ConfigFile, TakesCharactersBeyondAscii) {
  const auto name_of = [](const std::string& text) {
    Outer config;
    update_from_json(config, parse_config(text, "a.toml"));
    return config.name;
  };
  EXPECT_EQ(name_of("name = \"caf\u00e9\" # \u00e9\n"), "caf\u00e9");
  EXPECT_EQ(name_of("\ufeffname = '\u00e9\\'"), "\u00e9\\");
  EXPECT_EQ(name_of("\ufeffname = 'a'"), "a");
  EXPECT_EQ(name_of("name = \"\\\"\u00e9\""), "\"\u00e9");
  EXPECT_EQ(name_of("name = \"\"\"\na\"\u00e9\n\"\"\""), "a\"\u00e9\n");
  EXPECT_EQ(name_of("name = '''\u00e9''s'''"), "\u00e9''s");
  EXPECT_EQ(name_of("name = \"\"\"a\\\n  \u00e9\"\"\""), "a\u00e9");
  EXPECT_EQ(
      name_of("name = \"zq00zq01C3 \U0001f600\""), "zq00zq01C3 \U0001f600");
  EXPECT_EQ(name_of("name = \"\u00e9\"\ninner = {rate = 0.1}"), "\u00e9");
  for (const char* text :
       {"\u00e9 = 1",
        "width = \u00e9",
        "width = 1\u00a0",
        "name = \"a\"\u00e9",
        "name = 'a\n\u00e9'",
        "width = 6\"\u00e9\"",
        "name = \"\xff\""}) {
    EXPECT_THROW(name_of(text), InvalidInput) << text;
  }
  try {
    name_of("width = \u00e9");
  } catch (const InvalidInput& error) {
    EXPECT_THAT(error.what(), HasSubstr("'a.toml': expected TOML; line 1"));
    EXPECT_THAT(error.what(), Not(HasSubstr("zq")));
  }
}

TEST(ApplySetting, SetsJsonOrText) {
  Outer config;
  apply_setting(config, "width=128");
  apply_setting(config, "inner.rate=0.5");
  apply_setting(config, "inner.names=[\"a\",\"b\"]");
  apply_setting(config, "name=btt:0.25,alpha=0.5");
  apply_setting(config, "fast=true");
  apply_setting(config, "widths=7");
  EXPECT_EQ(config.width, 128);
  EXPECT_EQ(config.inner.rate, 0.5);
  EXPECT_EQ(config.inner.names, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(config.name, "btt:0.25,alpha=0.5");
  EXPECT_TRUE(config.fast);
  EXPECT_EQ(config.widths, std::vector<std::int64_t>{7});
  apply_setting(config, "inner={\"rate\": 2}");
  EXPECT_EQ(config.inner.rate, 2);
  EXPECT_EQ(config.inner.names.size(), 2U);
}

TEST(ApplySetting, TakesWhatLooksLikeANumberAsTextWhereTextIsHeld) {
  for (const char* text : {"2024", "true", "null", "1e3", "{}", "[[[", ""}) {
    Outer config;
    apply_setting(config, std::string("name=") + text);
    EXPECT_EQ(config.name, text);
    apply_setting(config, std::string("inner.names=") + text);
    EXPECT_EQ(config.inner.names, std::vector<std::string>{text});
  }
  Outer config;
  apply_setting(config, "name=\"a b\"");  // as in a file
  EXPECT_EQ(config.name, "a b");
}

TEST(ApplySetting, RejectsWhatIsNoSetting) {
  const std::string deep(200'000, '[');
  for (const std::string& setting :
       {std::string("width"),
        std::string("=3"),
        std::string(),
        std::string("width.deep=3"),
        std::string("widht=3"),
        std::string("inner.rat=3"),
        std::string("width=x"),
        std::string("inner=3"),
        std::string("name=\xff"),
        std::string(20'000, '.') + "=1",
        "width=" + deep + std::string(200'000, ']')}) {
    Outer config;
    EXPECT_THROW(apply_setting(config, setting), InvalidInput)
        << setting.substr(0, 40);
    EXPECT_EQ(config, Outer{});
  }
}

struct Ranged {
  std::int64_t count = 3;
  double share = 0.5;
  std::vector<std::int64_t> sizes = {1};

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("count", self.count, "cast to int", Range{1, 1000});
    visit("share", self.share, "a share", Range{.greatest = 1});
    visit("sizes", self.sizes, "each of them", Range{.least = 1});
  }
  bool operator==(const Ranged&) const = default;
};

TEST(Ranges, HoldHoweverAValueComes) {
  for (const char* setting :
       {"count=0",
        "count=1001",
        "count=4294967296",
        "count=-9223372036854775808",
        "share=1.5",
        "share=1e30",
        "sizes=[1,0]",
        "sizes=-1"}) {
    SCOPED_TRACE(setting);
    Ranged config;
    EXPECT_THROW(apply_setting(config, setting), InvalidInput);
    const internal::Setting parts = internal::parse_setting(setting);
    Json json;
    json[parts.keys.front()] = *try_parse_json(parts.value);
    EXPECT_THROW(update_from_json(config, json), InvalidInput);
  }
  Ranged config;
  apply_setting(config, "count=1000");
  apply_setting(config, "share=-7");
  check_ranges(config);
  config.sizes = {1, 2, 0};
  try {
    check_ranges(config);
    FAIL();
  } catch (const InvalidInput& error) {
    EXPECT_STREQ(
        error.what(), "sizes: expected a whole number of at least 1; got 0");
  }
  EXPECT_EQ(reference<Ranged>()[0].type, "a whole number from 1 to 1000");
}

TEST(Differences, HoldWhatIsNotTheDefault) {
  Outer config;
  EXPECT_EQ(differences(config), Json::object());
  config.fast = true;
  config.inner.names = {};
  EXPECT_EQ(
      differences(config).dump(), R"({"fast":true,"inner":{"names":[]}})");
  Outer back;
  update_from_json(back, differences(config));
  EXPECT_EQ(back, config);
  // From other defaults.
  Outer base;
  base.fast = true;
  base.width = 3;
  EXPECT_EQ(
      differences(config, base).dump(), R"({"width":64,"inner":{"names":[]}})");
}

TEST(ConfigId, DependsOnEveryValue) {
  const Outer config;
  Outer other;
  other.inner.rate = 0.25;
  const std::string id = config_id(to_json(config));
  EXPECT_EQ(id.size(), 16U);
  EXPECT_EQ(id.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(config_id(to_json(Outer{})), id);
  EXPECT_NE(config_id(to_json(other)), id);
}

TEST(Reference, ListsEveryFieldOnce) {
  const std::vector<FieldReference> rows = reference<Outer>();
  std::vector<std::string> keys;
  for (const FieldReference& row : rows) {
    keys.push_back(row.key);
    EXPECT_FALSE(row.meaning.empty());
  }
  EXPECT_THAT(
      keys,
      ::testing::ElementsAre(
          "width",
          "small",
          "count",
          "fast",
          "name",
          "widths",
          "inner.rate",
          "inner.names"));
  EXPECT_EQ(rows[5].type, "a list, each a whole number");
  EXPECT_EQ(rows[5].default_value, "[1,2]");
  EXPECT_EQ(rows[7].type, "a list, each a string");
}

}  // namespace
}  // namespace einforge::base
