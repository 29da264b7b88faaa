#pragma once

#include "einforge/stable/call.h"

// The torch that runs, not the one that the library was built beside.
#undef TORCH_VERSION
#define TORCH_VERSION ::einforge::stable::torch_version()
