#define EINFORGE_VECTOR_FLOATS 4
#include "einforge/kernels/cpu/btt_linear_tile.h"

namespace einforge::kernels::cpu {

const BttLinearIsa kBttLinearPortable{kWidth, forward, backward};

}  // namespace einforge::kernels::cpu
