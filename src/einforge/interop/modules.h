#pragma once

#include <string_view>

// Python files of the package, built into the library.
namespace einforge::interop::modules {

std::string_view models();             // python/einforge/models.py
std::string_view modeling_einforge();  // python/einforge/modeling_einforge.py

}  // namespace einforge::interop::modules
