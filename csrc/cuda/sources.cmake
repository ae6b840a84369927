# What symmd_cuda is made of, and the emulated library of tests/cuda_emulator alike.
file(GLOB SYMMD_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cu ${CMAKE_CURRENT_LIST_DIR}/*.cpp)
# The templates of csrc/core are compiled for one number in a thread.
set(SYMMD_CUDA_DEFINITIONS SYMMD_GPU SYMMD_NAMESPACE=gpu)
