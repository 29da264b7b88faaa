#!/bin/sh
# Rebuilds examples/data/*.txt from Debian's packages dict-jargon and dict-devil.
# usage: scripts/make_example_text.sh [OUT_FOLDER]
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
out=$(mkdir -p -- "${1:-$root/examples/data}" && cd -- "${1:-$root/examples/data}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq dict-jargon dict-devil
for package in dict-*.deb; do
  dpkg-deb -x "$package" .
done

# Both: an entry starts at a line that is not indented after an empty one.
# Blank lines are kept between entries only, so that an entry is a document.
# Left out: the packages' own headers, the last line (the list of characters)
# and lines of tables drawn with box characters.
gzip -dc < usr/share/dictd/jargon.dict.dz | grep -v '─\|│' | awk '
  $0 == "(TM)" { started = 1 }          # the first entry
  !started || /^ !\$&/ { next }
  /^[ ]*$/ { blank = 1; next }
  /^[^ ]/ {                             # a headword
    printf "%s%s", entries++ ? "\n" : "", $0
    headword = 1; next
  }
  headword && /^ [^ ]/ { sub(/^ (\/\/, )?/, " "); sub(/^ \/\/$/, "") }
  headword { headword = 0; print (/^    / || /^$/) ? "" : $0 }
  /^    / { sub(/^    /, ""); print }
' > "$out/jargon.txt"

gzip -dc < usr/share/dictd/devil.dict.dz | awk '
  / PREFACE$/ { started = 1; next }
  !started || /^ abcdef/ { next }
  /^[ ]*$/ { blank = 1; next }
  blank && /^[^ ]/ && entries++ { print "" }
  { blank = 0; sub(/[ ]+$/, ""); print }
' > "$out/devil.txt"

wc -c "$out/jargon.txt" "$out/devil.txt"
