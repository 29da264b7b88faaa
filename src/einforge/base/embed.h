#pragma once

// EINFORGE_EMBED(NAME, "PATH") builds a file into the program as NAME[] and
// NAME_end[], of global names. A string literal of some megabytes would take a
// compiler minutes; the assembler copies the bytes as they are.
#define EINFORGE_EMBED(name, file)    \
  __asm__(                            \
      ".pushsection .rodata\n"        \
      ".global " #name                \
      "\n"                            \
      ".global " #name "_end\n" #name \
      ":\n"                           \
      ".incbin \"" file "\"\n" #name  \
      "_end:\n"                       \
      ".byte 0\n"                     \
      ".popsection\n");               \
  extern "C" const char name[];       \
  extern "C" const char name##_end[]
