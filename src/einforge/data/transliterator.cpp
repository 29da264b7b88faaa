#include "einforge/data/transliterator.h"

#include <unicode/translit.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "einforge/data/icu.h"

namespace einforge::data {
namespace {

// In ICU's rule language. First what its tables lack or spell otherwise than
// English text does, then the tables. Marks are left out, but for the solidus
// that negates a relation.
constexpr const char16_t* kRules =
    uR"(
  [:Zs:] > ' ';
  [\u0085\u2028\u2029] > \n;
  [:Cf:] > ;
  ¢ > c; £ > GBP; ¥ > JPY; € > EUR;
  ¦ > '|'; § > 'S.'; ¶ > 'P.'; ° > ' deg'; · > '.'; µ > u;
  ¨ > '"'; ¯ > '-'; ´ > ''; ¸ > ','; ˜ > '~'; ″ > '"'; Ŀ > L; ŀ > l;
  [«»„] > '"'; [‹›‚] > ''; ™ > '(TM)'; ¬ > '~';
  × > x; [— ―] > '--'; † > '+'; • > '*';
  ⇐ > '<='; ⇒ > '=>'; ⇔ > '<=>';
  [∼≈] > '~'; ≠ > '!='; ≤ > '<='; ≥ > '>='; ⟨ > '<'; ⟩ > '>';
  [─━═] > '-'; [│┃║] > '|'; [─-╿] > '+';
  :: NFKD;
  :: [[:Mn:][:Me:]-[\u0338]] Remove;
  :: Latin-ASCII;
)";

const icu::Transliterator& rules() {
  static const std::unique_ptr<const icu::Transliterator> compiled = [] {
    UErrorCode error = U_ZERO_ERROR;
    UParseError place;
    std::unique_ptr<const icu::Transliterator> made(
        icu::Transliterator::createFromRules(
            u"einforge",
            icu::UnicodeString(kRules),
            UTRANS_FORWARD,
            place,
            error));
    check_icu(error);
    return made;
  }();
  return *compiled;
}

bool is_in_alphabet(char character) {
  return character == '\n' || (character >= ' ' && character <= '~');
}

}  // namespace

const std::optional<std::string>& Transliterator::spell(char32_t character) {
  const auto [found, is_new] = spelled_.try_emplace(character);
  if (is_new) {
    icu::UnicodeString text(static_cast<UChar32>(character));
    rules().transliterate(text);
    std::string spelling;
    text.toUTF8String(spelling);
    if (std::ranges::all_of(spelling, is_in_alphabet)) {
      found->second = std::move(spelling);
    }
  }
  return found->second;
}

bool is_fraction(char32_t character) {
  return u_getIntPropertyValue(
             static_cast<UChar32>(character), UCHAR_DECOMPOSITION_TYPE) ==
         U_DT_FRACTION;
}

}  // namespace einforge::data
