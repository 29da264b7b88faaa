#pragma once

#include <string_view>

// The files of assets/ and plotly.js, as they were when this was built.
namespace einforge::report::assets {

std::string_view markup();
std::string_view style();
std::string_view tables();
std::string_view sections();
std::string_view plots();
std::string_view page();
std::string_view coordinates();
std::string_view plotly();

}  // namespace einforge::report::assets
