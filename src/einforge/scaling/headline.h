#pragma once

#include <optional>
#include <string>
#include <vector>

#include "einforge/scaling/analysis.h"
#include "einforge/scaling/evaluation.h"

namespace einforge::scaling {

// Why a multiplier was not shown by the runs; "" when it was.
std::string missing_proof(
    const Multiplier& multiplier,
    const Frontier& baseline,
    const FrontierCheck& baseline_check,
    const Frontier& structure,
    const FrontierCheck& structure_check);

// Ranks the structures that have the widest-shared range of losses in common
// with the baseline, sorts all for display and picks the headline.
// `outcome` and `analysis.structures` are in the same order before.
void rank_structures(
    Analysis& analysis,
    const Outcome& outcome,
    std::optional<std::size_t> baseline);

}  // namespace einforge::scaling
