// Fuzzes the reading of configurations: TOML, JSON and --set, into the
// configuration of a training run.
#include <string_view>

#include "einforge/base/config.h"
#include "einforge/train/config.h"
#include "tests/fuzz/fuzz.h"

namespace base = einforge::base;
using einforge::train::TrainConfig;

std::vector<std::string> einforge::fuzz::seeds() {
  const std::string defaults = base::to_json(TrainConfig{}).dump();
  // The first byte chooses the reader.
  return {
      "j" + defaults,
      R"(j{"model": {"width": 64, "structure": {"all": "btt:0.25"}}})",
      "t[model]\nwidth = 64\nstructure.all = \"monarch\"\n[optimizer]\n"
      "learning_rate = 3e-3\n# a comment\n",
      "tmodel = {width = 64, layers = 2}\nseed = 0x10\n",
      "smodel.width=128",
      "smodel.structure={\"q\": \"dense\"}"};
}

extern "C" int LLVMFuzzerTestOneInput(
    const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::string_view text(
      reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    TrainConfig config;
    if (data[0] == 's') {
      base::apply_setting(config, text);
    } else {
      base::update_from_json(
          config,
          base::parse_config(text, data[0] == 'j' ? "f.json" : "f.toml"));
    }
    TrainConfig again;
    base::update_from_json(
        again,
        base::parse_json(base::dump_json(base::to_json(config)), "again"));
    einforge::fuzz::require(again == config, "a configuration survives JSON");
    einforge::fuzz::require(
        base::config_id(base::to_json(config)).size() == 16,
        "an id has 16 digits");
  } catch (const base::InvalidInput&) {
    // What anything else must lead to.
  }
  return 0;
}
