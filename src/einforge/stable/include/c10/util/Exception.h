#pragma once

#include "einforge/stable/library.h"
