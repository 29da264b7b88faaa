#pragma once

#include "einforge/base/json.h"

namespace einforge::report {

// What two objects have in common, level by level.
base::Json common_part(const base::Json& a, const base::Json& b);

// What `config` has beyond `common`, a part of it. Members of both, level by
// level, make `config` again.
base::Json own_part(const base::Json& config, const base::Json& common);

}  // namespace einforge::report
