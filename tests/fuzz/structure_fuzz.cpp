// Fuzzes the text of structures, and their realisation at small widths.
#include <string_view>

#include "einforge/base/error.h"
#include "einforge/structure/structure.h"
#include "tests/fuzz/fuzz.h"

namespace structure = einforge::structure;

std::vector<std::string> einforge::fuzz::seeds() {
  // Two bytes of width, then the text.
  return {
      "\x40\x40"
      "dense",
      "\x40\x20low_rank:0.5",
      "\x20\x60kronecker:alpha=1/3,delta=0.5",
      "\x60\x60tensor_train:0.25,alpha=0.33,delta=0.67",
      "\x18\x18monarch",
      "\x10\x40"
      "btt:0.25,alpha=0.75,epsilon=0.25",
      "\x40\x40theta:0.5,0.25,0.25,0.25,0.5,0.25,0.25",
      "\x40\x40"
      "btt_moe:E=16,k=2,rho=3,alpha=0.5",
      "\x0d\x11monarch:alpha=0.4,pad",
      "\x40\x40low_rank_moe:0.25,E=8,k=1",
      "\x40\x40"
      "ffn_moe:E=8,k=2"};
}

extern "C" int LLVMFuzzerTestOneInput(
    const std::uint8_t* data, std::size_t size) {
  if (size < 2) {
    return 0;
  }
  const std::string_view text(
      reinterpret_cast<const char*>(data) + 2, size - 2);
  try {
    const structure::Spec spec = structure::parse(text);
    einforge::fuzz::require(
        structure::parse(spec.text) == spec, "normalised text parses alike");
    const std::int64_t d_in = 8 * data[0];
    const std::int64_t d_out = 4 * data[1];
    const structure::Structure layer = structure::realise(spec, d_in, d_out);
    einforge::fuzz::require(
        spec.pad ? layer.sizes.d_in() >= d_in && layer.sizes.d_out() >= d_out
                 : layer.sizes.d_in() == d_in && layer.sizes.d_out() == d_out,
        "the products are the widths");
    const structure::Taxonomy taxonomy = structure::taxonomy(layer);
    einforge::fuzz::require(
        taxonomy.psi >= 0 && taxonomy.psi <= 1 &&
            (taxonomy.omega > -1e-9 || spec.mixture),
        "omega and psi are in their ranges");
  } catch (const einforge::base::InvalidInput&) {
    // What anything else must lead to.
  }
  return 0;
}
