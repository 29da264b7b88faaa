#pragma once

#include <cstdint>

#include "einforge/base/json.h"
#include "einforge/structure/structure.h"

namespace einforge::structure {

// What `describe --json` prints of a structure at a width and what Python
// builds its modules from: sizes, taxonomy, parameters, MACs, the order of
// contraction and each core's shape, initial deviation and learning-rate
// multiplier; of a mixture also its experts and router.
base::Json to_json(const Structure& layer, std::int64_t base_width = 768);

// {"omega", "psi", "nu"}.
base::Json to_json(const Taxonomy& taxonomy);

}  // namespace einforge::structure
