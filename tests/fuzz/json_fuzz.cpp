// Fuzzes the reader of JSON, which all of meta.json, state.json, stores and
// configurations go through.
#include <string_view>

#include "einforge/base/error.h"
#include "einforge/base/json.h"
#include "einforge/base/text.h"
#include "tests/fuzz/fuzz.h"

namespace base = einforge::base;

std::vector<std::string> einforge::fuzz::seeds() {
  return {
      R"({"a":[1,-2,3.5e3,true,null],"b":{"c":"\u00e9\n"}})",
      "[[[[]]]]",
      "18446744073709551615",
      R"({"format":"einforge-tokens","version":1,"train":{"tokens":7}})"};
}

extern "C" int LLVMFuzzerTestOneInput(
    const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  einforge::fuzz::require(
      base::is_utf8(base::printable(text)), "printable text is UTF-8");
  try {
    const base::Json json = base::parse_json(text, "input");
    const std::string written = base::dump_json(json);
    einforge::fuzz::require(
        base::dump_json(base::parse_json(written, "again")) == written,
        "JSON survives writing");
  } catch (const base::InvalidInput& error) {
    const std::string message = base::message_of(error);
    einforge::fuzz::require(
        (message.find("json.exception") == std::string::npos ||
         text.find("json.exception") != std::string_view::npos) &&
            message.find('\n') == std::string::npos,
        "an error is one line in plain words");
  }
  return 0;
}
