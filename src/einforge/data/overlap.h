#pragma once

#include <cstddef>
#include <cstdint>

#include "einforge/data/token_files.h"

namespace einforge::data {

// About a line of text.
inline constexpr std::size_t kOverlapPiece = 64;  // tokens

// The share of `validation`, cut into pieces of kOverlapPiece tokens, whose
// pieces are found in `train`, anywhere. Of more than `most_pieces` about so
// many, evenly spread, are looked for. One pass over `train`, in 100 MB.
double overlap(
    const TokenStream& train,
    const TokenStream& validation,
    std::size_t most_pieces = std::size_t{1} << 20);

}  // namespace einforge::data
