# `cmake --install` and find_package(einforge); examples/find_package uses both.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The installed program finds the operators beside it, and LibTorch and CUDA
# where they were linked.
if(EINFORGE_TORCH)
  set_target_properties(
    einforge einforge_ops
    PROPERTIES
      INSTALL_RPATH
      "$ORIGIN/../${CMAKE_INSTALL_LIBDIR};${EINFORGE_TORCH_ROOT}/lib;${CUDAToolkit_LIBRARY_DIR}"
  )
endif()

get_property(libraries GLOBAL PROPERTY EINFORGE_LIBRARIES)
install(
  TARGETS ${libraries}
  EXPORT einforgeTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(
  DIRECTORY src/einforge
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING
  PATTERN "*.h")
install(
  EXPORT einforgeTargets
  NAMESPACE einforge::
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/einforge)
configure_package_config_file(
  cmake/einforgeConfig.cmake.in "${CMAKE_BINARY_DIR}/einforgeConfig.cmake"
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/einforge)
write_basic_package_version_file("${CMAKE_BINARY_DIR}/einforgeConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(
  FILES "${CMAKE_BINARY_DIR}/einforgeConfig.cmake"
        "${CMAKE_BINARY_DIR}/einforgeConfigVersion.cmake"
        cmake/EinforgeCudaToolkit.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/einforge)

# The manual page and the completion, which the program itself writes.
set(pages "${CMAKE_BINARY_DIR}/pages")
install(
  CODE "
    file(MAKE_DIRECTORY \"${pages}\")
    execute_process(
      COMMAND \"$<TARGET_FILE:einforge>\" help --man
      OUTPUT_FILE \"${pages}/einforge.1\" COMMAND_ERROR_IS_FATAL ANY)
    execute_process(
      COMMAND \"$<TARGET_FILE:einforge>\" help --completion bash
      OUTPUT_FILE \"${pages}/einforge\" COMMAND_ERROR_IS_FATAL ANY)")
install(FILES "${pages}/einforge.1" DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES "${pages}/einforge"
        DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
