#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "einforge/base/json.h"
#include "einforge/train/router_watch.h"

namespace einforge::train {

// A mean that a checkpoint can hold.
struct Mean {
  double sum = 0;
  std::int64_t count = 0;

  // The mean so far, NaN of nothing; starts anew.
  double take();
  bool operator==(const Mean&) const = default;
};

// All that a run knows beside its tensors. Whatever of it a later step or the
// result depends on is in every checkpoint, so that a resumed run ends with
// the same log and the same result.
struct RunState {
  static constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

  std::int64_t step = 0;  // steps done
  double seconds = 0;     // of training
  double val_loss = kUnknown;
  // Mean training loss of the last steps that were read back.
  double last_loss = kUnknown;
  Mean since_log;
  Mean since_point;
  // What the routers did in step `router_step`, and what lasted of it.
  std::vector<RouterRow> router_rows;
  std::int64_t router_step = 0;
  RouterWarnings warnings;

  // Without the step, which a checkpoint has in its own place.
  base::Json to_json() const;
  // Takes what `json` of a checkpoint at `step` holds; keys of later versions
  // may be absent. Throws base::Json::exception.
  static RunState from_json(std::int64_t step, const base::Json& json);

  // {"step", "layers", "warnings"}, see TrainResult; null without routers.
  base::Json routers() const;
};

}  // namespace einforge::train
