# Finds a CUDA toolkit for TorchConfig, which wants one even where no CUDA file
# is compiled: the system's, or the compiler wheels beside torch.
# Reads EINFORGE_TORCH_ROOT; sets CMAKE_CUDA_COMPILER where there is a compiler.
cmake_path(GET EINFORGE_TORCH_ROOT PARENT_PATH einforge_site_packages)

# The wheel is a CUDA 13 build; an older nvcc on the path would not do.
function(einforge_is_cuda_13 result candidate)
  execute_process(COMMAND "${candidate}" --version OUTPUT_VARIABLE version
                  ERROR_QUIET)
  if(NOT version MATCHES "release 13\\.")
    set(${result} FALSE PARENT_SCOPE)
  endif()
endfunction()

if(NOT CMAKE_CUDA_COMPILER)
  find_program(
    EINFORGE_NVCC nvcc
    HINTS "$ENV{CUDA_HOME}/bin" /usr/local/cuda/bin
          "${einforge_site_packages}/nvidia/cu13/bin"
    VALIDATOR einforge_is_cuda_13)
  if(EINFORGE_NVCC)
    cmake_path(GET EINFORGE_NVCC PARENT_PATH einforge_toolkit)
    cmake_path(GET einforge_toolkit PARENT_PATH einforge_toolkit)
    set(CMAKE_CUDA_COMPILER "${EINFORGE_NVCC}" CACHE FILEPATH "nvcc")
    set(CUDAToolkit_ROOT "${einforge_toolkit}" CACHE PATH "CUDA toolkit")
    set(CUDA_TOOLKIT_ROOT_DIR "${einforge_toolkit}" CACHE PATH "CUDA toolkit")
  endif()
endif()
