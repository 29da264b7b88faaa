#!/usr/bin/env python3
"""Writes docs/api.md from the docstrings of the Python package.

    scripts/make_api.py           writes it
    scripts/make_api.py --check   says whether it is up to date

Needs the library (make build), as importing einforge does.
"""

import inspect
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
sys.path.insert(0, str(ROOT / "python"))

import einforge  # noqa: E402

INTRODUCTION = """\
# Python API

Made from the docstrings by `scripts/make_api.py`. How to use it is in
[from PyTorch](from_pytorch.md); structures are explained in
[structures](structures.md), sizes and symbols in the [glossary](glossary.md).
T is the number of tokens, E of experts, k of those that a token takes.
"""

SECTIONS = (
    ("A model's layers", "einforge.nn", einforge.nn),
    ("Models, structures and operators", "einforge", einforge),
)


def short(annotation) -> str:
    """A type without the long names of modules."""
    text = inspect.formatannotation(annotation)
    text = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])", "", text)
    return re.sub(r"Union\[(.*), NoneType\]", r"Optional[Union[\1]]", text)


def signature(name: str, value) -> str:
    """A call as a reader types it."""
    found = inspect.signature(value)
    parts, star = [], False
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        text = {parameter.VAR_KEYWORD: "**", parameter.VAR_POSITIONAL: "*"}.get(
            parameter.kind, "") + parameter.name
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        annotated = parameter.annotation is not parameter.empty
        if annotated:
            text += f": {short(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += (" = " if annotated else "=") + repr(parameter.default)
        parts.append(text)
    result = ("" if found.return_annotation is found.empty
              or inspect.isclass(value)
              else f" -> {short(found.return_annotation)}")
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) <= 76:
        return line
    return f"{name}(\n" + "".join(f"    {p},\n" for p in parts) + f"){result}"


def text_of(value) -> str:
    """A docstring as Markdown: indented blocks as they are."""
    found = inspect.getdoc(value) or ""
    text, in_block = [], False
    for line in found.splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises):", line)
        if heading:
            text += ["", f"**{heading[1]}**", ""]
            in_block = True
        elif in_block and line.startswith("    "):
            entry = re.match(r"    ([\w, ]+): (.*)", line)
            continued = line.startswith("        ")
            if entry and not continued:
                text.append(f"- `{entry[1]}`: {entry[2]}")
            elif continued:
                text.append("  " + line.strip())
            else:
                text.append(line.strip())
        else:
            in_block = in_block and not line
            text.append(line)
    return "\n".join(text).strip()


def fields(value) -> list[str]:
    """Of a named tuple: its fields with the comments beside them."""
    source = inspect.getsource(value)
    lines = []
    for name in value._fields:
        found = re.search(
            rf"^    {name}: ([^#\n=]+?)(?: = ([^#\n]+?))? *(?:# (.*))?$", source,
            re.M)
        kind, default, comment = found.groups() if found else ("", None, None)
        lines.append(
            f"- `{name}: {kind}`" + (f", by default {default}" if default else "")
            + (f": {comment}" if comment else ""))
    return lines


def entry(prefix: str, name: str, value) -> str:
    lines = [f"### {prefix}.{name}", ""]
    if hasattr(value, "_fields"):
        lines += [text_of(value), "", *fields(value)]
        own = value.__dict__
    elif inspect.isclass(value) and issubclass(value, list):
        lines += [text_of(value)]
        own = {}
    else:
        lines += ["```text", signature(name, value), "```", "", text_of(value)]
        own = value.__dict__ if inspect.isclass(value) else {}
        constructor = own.get("__init__")
        if constructor is not None and constructor.__doc__:
            lines += ["", text_of(constructor)]
    for method, inner in own.items():
        if method.startswith("_"):
            continue
        if isinstance(inner, property):
            if inner.__doc__:
                lines += ["", f"`{name}.{method}`: {text_of(inner)}"]
        elif inspect.isfunction(inner) and inner.__doc__:
            lines += ["", "```text", f"{name}.{signature(method, inner)}",
                      "```", "", text_of(inner)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).strip()) + "\n"


def page() -> str:
    parts, seen = [INTRODUCTION], set()
    for title, prefix, module in SECTIONS:
        parts.append(f"## {title}\n")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value) or id(value) in seen:
                continue
            seen.add(id(value))
            parts.append(entry(prefix, name, value))
    return "\n".join(parts)


def main() -> int:
    made = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made)
        return 0
    if PAGE.exists() and PAGE.read_text() == made:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is not what the docstrings say: run "
          "scripts/make_api.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
