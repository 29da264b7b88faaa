# One target a folder. A folder without Torch gets no Torch include path, so
# that a leak does not compile.

add_library(einforge_flags INTERFACE)
target_compile_options(
  einforge_flags
  INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow>
            $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor
            -Wno-missing-field-initializers>)
if(EINFORGE_WERROR)
  target_compile_options(einforge_flags
                         INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(EINFORGE_SANITIZE)
  target_compile_options(
    einforge_flags INTERFACE -fsanitize=${EINFORGE_SANITIZE}
                             -fno-omit-frame-pointer
                             -fno-sanitize-recover=undefined)
  target_link_options(einforge_flags INTERFACE -fsanitize=${EINFORGE_SANITIZE})
endif()

# einforge_use_pch(TARGET NAME HEADERS header... [LIBRARIES target...]
#                  [DEFINITIONS macro...] [OPTIONS option...])
# The precompiled header NAME, which the first target that asks for it makes;
# all of its targets have the same options.
function(einforge_use_pch target name)
  cmake_parse_arguments(ARG "" "" "HEADERS;LIBRARIES;DEFINITIONS;OPTIONS"
                        ${ARGN})
  set(pch einforge_${name}_pch)
  if(NOT TARGET ${pch})
    file(WRITE "${CMAKE_BINARY_DIR}/${name}_pch.cpp" "")
    add_library(${pch} STATIC "${CMAKE_BINARY_DIR}/${name}_pch.cpp")
    target_link_libraries(${pch} PRIVATE einforge_flags ${ARG_LIBRARIES})
    target_compile_definitions(${pch} PRIVATE ${ARG_DEFINITIONS})
    target_compile_options(${pch} PRIVATE ${ARG_OPTIONS})
    target_precompile_headers(${pch} PRIVATE ${ARG_HEADERS})
  endif()
  get_target_property(type ${target} TYPE)
  if(type STREQUAL EXECUTABLE)
    # CMake would say -fPIE, which cannot use a header compiled with -fPIC.
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fPIC>)
  endif()
  target_compile_options(${target} PRIVATE ${ARG_OPTIONS})
  target_precompile_headers(${target} REUSE_FROM ${pch})
endfunction()

# Tests run for seconds and take minutes to optimise.
set(einforge_test_options $<$<CONFIG:Release>:-O1>)
set(einforge_test_headers <gmock/gmock.h> <gtest/gtest.h> <nlohmann/json.hpp>)

# einforge_library(NAME [TORCH] [TORCH_SOURCES file...] [DEPS target...]
#                  [TORCH_DEPS target...] [SYSTEM library...])
# Builds all .cpp files of the current source folder, and of its subfolders
# that are no libraries of their own, as the static library einforge_NAME.
# With TORCH_SOURCES only those files see Torch. The others are a library of
# their own, einforge_NAME_core, which needs DEPS alone and is built, tested and
# sanitised without Torch too; einforge_NAME needs TORCH_DEPS as well.
function(einforge_library name)
  cmake_parse_arguments(ARG "TORCH" "" "TORCH_SOURCES;DEPS;TORCH_DEPS;SYSTEM"
                        ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS *.cpp)
  if(ARG_TORCH_SOURCES)
    list(TRANSFORM ARG_TORCH_SOURCES PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/")
    list(REMOVE_ITEM sources ${ARG_TORCH_SOURCES})
    einforge_add_library(${name}_core SOURCES ${sources} DEPS ${ARG_DEPS}
                         ${ARG_SYSTEM})
    if(NOT EINFORGE_TORCH)
      return()
    endif()
    set(ARG_TORCH TRUE)
    set(sources ${ARG_TORCH_SOURCES})
    set(ARG_DEPS einforge_${name}_core ${ARG_TORCH_DEPS})
  endif()
  einforge_add_library(${name} SOURCES ${sources} DEPS ${ARG_DEPS} ${ARG_SYSTEM})
  if(ARG_TORCH)
    einforge_use_torch(einforge_${name})
  endif()
endfunction()

function(einforge_add_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(einforge_${name} STATIC ${ARG_SOURCES})
  add_library(einforge::${name} ALIAS einforge_${name})
  set_target_properties(einforge_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(
    einforge_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>
                            $<INSTALL_INTERFACE:include>)
  target_link_libraries(einforge_${name} PRIVATE
                        $<BUILD_INTERFACE:einforge_flags>)
  target_link_libraries(einforge_${name} PUBLIC ${ARG_DEPS})
  set_property(GLOBAL APPEND PROPERTY EINFORGE_LIBRARIES einforge_${name})
endfunction()

# Of a list of the sources of ops/, leaves those that the build can have: without
# CUDA kernels one file stands in for all of cuda/ that calls them.
function(einforge_choose_cuda_sources variable)
  set(chosen ${${variable}})
  if(EINFORGE_HAVE_CUDA)
    list(FILTER chosen EXCLUDE REGEX "/ops/cuda/no_cuda.cpp$")
  else()
    set(torch_only
        "choice_cache|btt_moe_linear|einsum_linear|strided_bmm|no_cuda")
    set(others ${chosen})
    list(FILTER chosen EXCLUDE REGEX "/ops/cuda/")
    list(FILTER others INCLUDE REGEX "/ops/cuda/(${torch_only}).cpp$")
    list(APPEND chosen ${others})
  endif()
  set(${variable} ${chosen} PARENT_SCOPE)
endfunction()

# einforge_test(FOLDER [TORCH] [BY_SUITE] [TORCH_SOURCES file...]
#               [DEPS target...] [TORCH_DEPS target...]):
# tests/FOLDER/*_test.cpp as the program FOLDER_tests, each test seen by ctest;
# BY_SUITE each suite, where a start takes longer than a test. With TORCH_SOURCES
# those tests are a program of their own, FOLDER_torch_tests, and the others do
# without Torch.
function(einforge_test folder)
  cmake_parse_arguments(ARG "TORCH;BY_SUITE" "" "TORCH_SOURCES;DEPS;TORCH_DEPS"
                        ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${folder}/*_test.cpp
       ${folder}/*_testing.cpp)
  if(ARG_TORCH_SOURCES)
    list(TRANSFORM ARG_TORCH_SOURCES PREPEND
         "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/")
    list(REMOVE_ITEM sources ${ARG_TORCH_SOURCES})
    if(EINFORGE_TORCH)
      einforge_add_test(
        ${folder}_torch TRUE PREFIX ${folder} SOURCES ${ARG_TORCH_SOURCES} DEPS
        ${ARG_DEPS} ${ARG_TORCH_DEPS})
    endif()
  endif()
  set(by_suite)
  if(ARG_BY_SUITE)
    set(by_suite BY_SUITE)
  endif()
  einforge_add_test(${folder} ${ARG_TORCH} ${by_suite} PREFIX ${folder} SOURCES
                    ${sources} DEPS ${ARG_DEPS})
endfunction()

function(einforge_add_test name torch)
  cmake_parse_arguments(ARG "BY_SUITE" "PREFIX" "SOURCES;DEPS" ${ARGN})
  add_executable(${name}_tests ${ARG_SOURCES})
  target_link_libraries(${name}_tests PRIVATE einforge_flags ${ARG_DEPS}
                                              GTest::gtest_main GTest::gmock)
  target_include_directories(${name}_tests PRIVATE ${PROJECT_SOURCE_DIR})
  if(torch)
    einforge_use_torch(${name}_tests test)
  else()
    einforge_use_pch(
      ${name}_tests test
      HEADERS ${einforge_test_headers}
      LIBRARIES GTest::gmock nlohmann_json::nlohmann_json
      OPTIONS ${einforge_test_options})
  endif()
  set(environment
      "EINFORGE_SOURCE_DIR=${PROJECT_SOURCE_DIR}"
      "EINFORGE_BIN_DIR=${CMAKE_BINARY_DIR}/bin"
      "EINFORGE_LIB_DIR=${CMAKE_BINARY_DIR}/lib"
      "EINFORGE_PYTHON=${EINFORGE_PYTHON}"
      "OMP_WAIT_POLICY=passive")
  if(ARG_BY_SUITE)
    set(suites "${CMAKE_CURRENT_BINARY_DIR}/${name}_suites.cmake")
    file(
      GENERATE
      OUTPUT "${suites}"
      CONTENT
        "set(program [[$<TARGET_FILE:${name}_tests>]])
set(prefix [[${ARG_PREFIX}]])
set(environment [[${environment}]])
include([[${PROJECT_SOURCE_DIR}/cmake/EinforgeTestSuites.cmake]])
")
    set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${suites}")
    return()
  endif()
  # Escaped once more than it looks: discovery takes the list apart on its way.
  string(JOIN "\\;" environment ${environment})
  gtest_discover_tests(
    ${name}_tests
    TEST_PREFIX "${ARG_PREFIX}."
    # Values print as raw bytes, pointers among them; cases have names.
    NO_PRETTY_VALUES
    DISCOVERY_MODE PRE_TEST
    DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT 600 ENVIRONMENT "${environment}")
endfunction()
