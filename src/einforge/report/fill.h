#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What pages have in common.
namespace einforge::report {

// JSON inside a script element: '<' could end the element.
std::string escape_for_script(const std::string& json);

// The template with each mark replaced by its text. Marks are in the template's
// order, so that nothing in a text is taken for a mark.
std::string fill(
    std::string_view markup,
    const std::vector<std::pair<std::string_view, std::string_view>>& parts);

}  // namespace einforge::report
