#define EINFORGE_VECTOR_FLOATS 4
#include "einforge/kernels/cpu/einsum_linear_tile.h"

namespace einforge::kernels::cpu {

const EinsumLinearIsa kEinsumLinearPortable{kWidth, forward, backward};

}  // namespace einforge::kernels::cpu
