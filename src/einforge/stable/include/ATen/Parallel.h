#pragma once

#include "einforge/stable/parallel.h"
