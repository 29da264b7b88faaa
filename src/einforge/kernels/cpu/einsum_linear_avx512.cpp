#if defined(__x86_64__)
#define EINFORGE_VECTOR_FLOATS 16
#include "einforge/kernels/cpu/einsum_linear_tile.h"

namespace einforge::kernels::cpu {

const EinsumLinearIsa kEinsumLinearAvx512{kWidth, forward, backward};

}  // namespace einforge::kernels::cpu
#endif
