# LibTorch from the wheel, and CUDA for it.

execute_process(
  COMMAND "${EINFORGE_PYTHON}" -c
          "import os, torch; print(os.path.dirname(torch.__file__))"
  OUTPUT_VARIABLE EINFORGE_TORCH_ROOT
  OUTPUT_STRIP_TRAILING_WHITESPACE
  ERROR_QUIET
  RESULT_VARIABLE torch_missing)
if(torch_missing)
  message(
    FATAL_ERROR "No torch in ${EINFORGE_PYTHON}: run `make setup` first, or "
                "point EINFORGE_VENV at an environment that has torch 2.11")
endif()
list(APPEND CMAKE_PREFIX_PATH "${EINFORGE_TORCH_ROOT}/share/cmake")

# 8.0 and 8.9 run the portable kernels, 9.0a those that use Hopper's own
# instructions.
set(TORCH_CUDA_ARCH_LIST "8.0;8.9;9.0a" CACHE STRING "CUDA architectures")
include(EinforgeCudaToolkit)
set(EINFORGE_HAVE_CUDA OFF)
if(EINFORGE_CUDA AND CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(EINFORGE_HAVE_CUDA ON)
endif()
if(EINFORGE_TORCH)
  find_package(Torch 2.11 REQUIRED)
elseif(EINFORGE_HAVE_CUDA)
  # What TorchConfig does as well; the operators for Python do without it.
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
endif()
message(STATUS "CUDA kernels: ${EINFORGE_HAVE_CUDA}")

# einforge_use_torch(TARGET [test]): with the precompiled header of Torch, for
# tests that of GoogleTest too. It saves about 10 s a file.
function(einforge_use_torch target)
  target_link_libraries(${target} PUBLIC torch)
  # Torch brings a newer {fmt} of its own, headers only, that hides Debian's.
  target_compile_definitions(${target} PRIVATE FMT_HEADER_ONLY)
  # Not torch/torch.h: what it declares beside these takes 2.5 s of every file.
  set(headers <torch/types.h> <torch/library.h>
              <torch/csrc/autograd/custom_function.h> <torch/nn/module.h>)
  if("test" IN_LIST ARGN)
    einforge_use_pch(
      ${target} torch_test
      HEADERS ${headers} ${einforge_test_headers}
      LIBRARIES torch GTest::gmock
      DEFINITIONS FMT_HEADER_ONLY
      OPTIONS ${einforge_test_options})
  else()
    einforge_use_pch(
      ${target} torch
      HEADERS ${headers}
      LIBRARIES torch
      DEFINITIONS FMT_HEADER_ONLY)
  endif()
  get_target_property(type ${target} TYPE)
  if(NOT type STREQUAL STATIC_LIBRARY)
    # libtorch.so exports parts of an old std::filesystem, whose remove_all
    # calls a null pointer here: the C++ library must be searched first.
    target_link_options(
      ${target} PRIVATE
      "LINKER:--push-state,--no-as-needed,-lstdc++,--pop-state")
  endif()
endfunction()
