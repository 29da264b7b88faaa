# Read by ctest: tells it of the suites of a test program, each a test.
# program, prefix, environment: set by who includes this.

if(NOT EXISTS "${program}")
  add_test("${prefix}.NOT_BUILT" "${program}")
  return()
endif()
set(list "${program}.txt")
if("${program}" IS_NEWER_THAN "${list}")
  execute_process(COMMAND "${program}" --gtest_list_tests
                  OUTPUT_FILE "${list}" COMMAND_ERROR_IS_FATAL ANY)
endif()
file(STRINGS "${list}" suites REGEX "^[^ ]+\\.")
foreach(suite IN LISTS suites)
  string(REGEX REPLACE "\\..*" "" suite "${suite}")
  add_test("${prefix}.${suite}" "${program}" "--gtest_filter=${suite}.*")
  set_tests_properties(
    "${prefix}.${suite}"
    PROPERTIES TIMEOUT 600 ENVIRONMENT "${environment}"
    # None that ran.
    SKIP_REGULAR_EXPRESSION "  PASSED  \\] 0 tests")
endforeach()
