# Finds a CUDA toolkit for TorchConfig, which wants one even where no CUDA file
# is compiled: the system's, or the compiler wheels beside torch.
# Reads EINFORGE_TORCH_ROOT; sets CMAKE_CUDA_COMPILER where there is a compiler.
cmake_path(GET EINFORGE_TORCH_ROOT PARENT_PATH einforge_site_packages)
if(NOT CMAKE_CUDA_COMPILER)
  find_program(EINFORGE_NVCC nvcc HINTS ENV CUDA_HOME /usr/local/cuda/bin
                                        "${einforge_site_packages}/nvidia/cu13/bin")
  if(EINFORGE_NVCC)
    cmake_path(GET EINFORGE_NVCC PARENT_PATH einforge_toolkit)
    cmake_path(GET einforge_toolkit PARENT_PATH einforge_toolkit)
    set(CMAKE_CUDA_COMPILER "${EINFORGE_NVCC}" CACHE FILEPATH "nvcc")
    set(CUDAToolkit_ROOT "${einforge_toolkit}" CACHE PATH "CUDA toolkit")
    set(CUDA_TOOLKIT_ROOT_DIR "${einforge_toolkit}" CACHE PATH "CUDA toolkit")
  endif()
endif()
