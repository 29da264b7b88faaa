#pragma once

#include <string_view>

namespace einforge::kernels::cpu {

// Instruction sets that kernels come in, from the narrowest vectors up.
enum class Isa { kPortable, kAvx2, kAvx512 };

// The widest that this machine runs.
Isa best_isa();

// "portable", "avx2", "avx512".
std::string_view isa_name(Isa isa);

}  // namespace einforge::kernels::cpu
