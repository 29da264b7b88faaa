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

# einforge_library(NAME [TORCH] [DEPS target...] [SYSTEM library...])
# Builds all .cpp files of the current source folder, and of its subfolders
# that are no libraries of their own, as the static library einforge_NAME.
function(einforge_library name)
  cmake_parse_arguments(ARG "TORCH" "" "DEPS;SYSTEM" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS *.cpp)
  if(NOT sources)
    return()
  endif()
  foreach(dependency ${ARG_DEPS})
    if(NOT TARGET ${dependency})
      message(STATUS "${name}/ waits for ${dependency}, which has no source")
      return()
    endif()
  endforeach()
  add_library(einforge_${name} STATIC ${sources})
  add_library(einforge::${name} ALIAS einforge_${name})
  set_target_properties(einforge_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(
    einforge_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>
                            $<INSTALL_INTERFACE:include>)
  target_link_libraries(einforge_${name} PRIVATE
                        $<BUILD_INTERFACE:einforge_flags>)
  target_link_libraries(einforge_${name} PUBLIC ${ARG_DEPS} ${ARG_SYSTEM})
  if(ARG_TORCH)
    einforge_use_torch(einforge_${name})
  endif()
  set_property(GLOBAL APPEND PROPERTY EINFORGE_LIBRARIES einforge_${name})
endfunction()

# einforge_test(FOLDER [TORCH] [DEPS target...]): tests/FOLDER/*_test.cpp as
# one program, each test seen by ctest.
function(einforge_test folder)
  cmake_parse_arguments(ARG "TORCH" "" "DEPS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${folder}/*_test.cpp
       ${folder}/*_testing.cpp)
  if(NOT sources)
    return()
  endif()
  foreach(dependency ${ARG_DEPS})
    if(NOT TARGET ${dependency})
      return()
    endif()
  endforeach()
  add_executable(${folder}_tests ${sources})
  target_link_libraries(${folder}_tests PRIVATE einforge_flags ${ARG_DEPS}
                                                GTest::gtest_main GTest::gmock)
  target_include_directories(${folder}_tests PRIVATE ${PROJECT_SOURCE_DIR})
  if(ARG_TORCH)
    einforge_use_torch(${folder}_tests)
  endif()
  # Escaped once more than it looks: discovery takes the list apart on its way.
  string(
    JOIN
    "\\;"
    environment
    "EINFORGE_SOURCE_DIR=${PROJECT_SOURCE_DIR}"
    "EINFORGE_BIN_DIR=${CMAKE_BINARY_DIR}/bin"
    "EINFORGE_LIB_DIR=${CMAKE_BINARY_DIR}/lib"
    "EINFORGE_PYTHON=${EINFORGE_PYTHON}"
    "OMP_WAIT_POLICY=passive")
  gtest_discover_tests(
    ${folder}_tests
    TEST_PREFIX "${folder}."
    # Values print as raw bytes, pointers among them; cases have names.
    NO_PRETTY_VALUES
    DISCOVERY_MODE PRE_TEST
    DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT 600 ENVIRONMENT "${environment}")
endfunction()
