# Finds what the project builds on. Libraries come from Debian or Ubuntu
# packages (scripts/setup.sh lists them); LibTorch from the torch wheel in the
# virtual environment that scripts/setup.sh makes.

find_package(fmt REQUIRED)
# Debian has no static library of it, which the wheel would take.
if(EINFORGE_WHEEL AND NOT EINFORGE_FMT)
  set(EINFORGE_FMT fmt::fmt-header-only)
elseif(NOT EINFORGE_FMT)
  set(EINFORGE_FMT fmt::fmt)
endif()
find_package(nlohmann_json REQUIRED)
find_package(SQLite3 REQUIRED)
if(NOT EINFORGE_WHEEL) # whose libraries are static ones
  find_package(PostgreSQL)
endif()
find_package(Eigen3 REQUIRED)
find_package(Threads REQUIRED)
find_package(ICU REQUIRED COMPONENTS i18n uc)
if(EINFORGE_WHEEL)
  # The tables, which a static library of ICU leaves to who links it.
  find_package(ICU REQUIRED COMPONENTS data)
  set_property(TARGET ICU::uc APPEND PROPERTY INTERFACE_LINK_LIBRARIES ICU::data)
endif()
find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)
find_library(XXHASH_LIBRARY xxhash REQUIRED)
find_path(TOML11_INCLUDE_DIR toml.hpp REQUIRED)
find_path(CLI11_INCLUDE_DIR CLI/CLI.hpp REQUIRED)
if(EINFORGE_TESTS)
  find_package(GTest REQUIRED)
endif()
if(EINFORGE_BENCHMARKS)
  find_package(benchmark REQUIRED)
endif()

find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # The sloppiness lets ccache serve files that use the precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      "${CMAKE_COMMAND}" -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      "${CCACHE}")
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${CMAKE_CXX_COMPILER_LAUNCHER}")
endif()

set(EINFORGE_VENV "${PROJECT_SOURCE_DIR}/.venv" CACHE PATH
    "The virtual environment that holds torch")
if(EINFORGE_WHEEL)
  set(EINFORGE_PYTHON "${Python_EXECUTABLE}")
elseif(EXISTS "${EINFORGE_VENV}/bin/python")
  set(EINFORGE_PYTHON "${EINFORGE_VENV}/bin/python")
else()
  find_program(EINFORGE_PYTHON python3 REQUIRED)
endif()

if(EINFORGE_TORCH OR EINFORGE_BINDING)
  include(EinforgeTorch)
endif()
