#pragma once

#include "einforge/stable/cuda.h"
