#pragma once

#include <string>
#include <string_view>

namespace einforge::store {

// "postgresql://..." or "postgres://...": a database, not a file.
bool is_database_uri(std::string_view location);

// The location without a password: what may be shown and kept. A password goes
// to the environment variable PGPASSWORD, where libpq, in this process and
// those that it starts, finds it. Throws base::InvalidInput for a URI that is
// none.
std::string without_password(const std::string& location);

// A word of a command line, such as --set=store=URI, without the password of
// the URI in it.
std::string shown_word(const std::string& word);

// The location with `search` after the '#' where it names none: the schema that
// holds it.
std::string with_search(const std::string& location, std::string_view search);

}  // namespace einforge::store
