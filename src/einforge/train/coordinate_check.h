#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "einforge/train/config.h"
#include "einforge/train/coordinates.h"

namespace einforge::train {

struct CheckOptions {
  // What is trained: the recipe of a gpt. Width, structure of all layers and
  // seed are overwritten; steps, schedule, evaluations and checkpoints are of
  // no effect, and the rate is constant. Without data.path tokens are
  // synthetic.
  TrainConfig config;
  // rank=N in one stands for the exponent that makes this rank at each width,
  // as in btt:rank=4.
  std::vector<std::string> structures;
  std::vector<std::int64_t> widths;
  // Measured over the last quarter of them.
  std::int64_t steps = 20;
  // Runs of each width, of seeds config.seed, config.seed + 1, ...
  std::int64_t seeds = 3;
  // Whether parameters have the learning rates that their structure and width
  // ask for; all have the same otherwise, which the check must notice.
  bool lr_multipliers = true;
  // Called with runs trained, of all, and what trains now.
  std::function<void(std::int64_t done, const std::string& what)> on_run;
};

// The structures that are checked unless others are named.
std::vector<std::string> default_check_structures();

// How large what layers compute is, and how far training moves it, by width:
// trains a gpt of each structure and width for some steps and measures on
// tokens that it never trains on,
//
//   size              the RMS of each kind of layer's output, the head's being
//                     the logits, and of routers' logits
//   change            the RMS of its change since that quarter began
//   effect of CORE    the RMS of the change of the output when a core (or dense
//                     matrix) is set back to its initial values
//
// A learning rate found at one width serves another where none of them depends
// on width. Sources: arXiv 2203.03466, appendix D.1; arXiv 2410.02117, section
// 5 (structured layers).
//
// Throws base::InvalidInput for a width that a structure has no layer for, and
// for data as train() does.
// Costs structures x widths x seeds x steps training steps, and for a quarter
// of them a pass over 128 tokens that runs each layer again for each of its
// cores.
CheckedModel check_coordinates(const CheckOptions& options);

}  // namespace einforge::train
