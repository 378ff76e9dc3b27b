/* A CUDA driver that loads every module and launches every kernel without doing anything, for one device like an H100.
 * What Triton's launchers call, and what ctypes asks: see __init__.py. */
#include <stdint.h>

typedef int CUresult; /* 0: success */

/* Values of cuda.h. */
enum { MAX_THREADS_PER_BLOCK = 0 };                        /* CUfunction_attribute */
enum { MULTIPROCESSOR_COUNT = 16, SHARED_PER_SM = 81, SHARED_PER_BLOCK_OPTIN = 97 }; /* CUdevice_attribute */
enum { MAXIMUM_THREADS = 1024, DRIVER_VERSION = 13000 };

static long launches = 0;
long stub_launches(void) { return launches; }

CUresult cuLaunchKernelEx(const void *config, void *function, void **parameters, void **extra) {
  ++launches;
  return 0;
}

CUresult cuInit(unsigned flags) { return 0; }
CUresult cuDriverGetVersion(int *version) { *version = DRIVER_VERSION; return 0; }
CUresult cuGetErrorString(CUresult error, const char **text) { *text = "error of the stub driver"; return 0; }

CUresult cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
CUresult cuDeviceGetCount(int *count) { *count = 1; return 0; }
CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
  case MULTIPROCESSOR_COUNT: *value = 132; break;
  case SHARED_PER_SM: *value = 233472; break;
  case SHARED_PER_BLOCK_OPTIN: *value = 232448; break;
  default: *value = 1000;
  }
  return 0;
}

CUresult cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
CUresult cuCtxSetCurrent(void *context) { return 0; }
CUresult cuCtxGetDevice(int *device) { *device = 0; return 0; }
CUresult cuCtxGetLimit(uint64_t *value, int limit) { *value = 0; return 0; }
CUresult cuCtxSetLimit(int limit, uint64_t value) { return 0; }
CUresult cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }

CUresult cuModuleLoadData(void **module, const void *image) { *module = (void *)2; return 0; }
CUresult cuModuleUnload(void *module) { return 0; }
CUresult cuModuleGetFunction(void **function, void *module, const char *name) { *function = (void *)3; return 0; }
CUresult cuFuncGetAttribute(int *value, int attribute, void *function) {
  *value = attribute == MAX_THREADS_PER_BLOCK ? MAXIMUM_THREADS : 0;
  return 0;
}
CUresult cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }
CUresult cuFuncSetCacheConfig(void *function, int config) { return 0; }
CUresult cuOccupancyMaxActiveClusters(int *clusters, void *function, const void *config) { *clusters = 1; return 0; }

/* Host memory is device memory here. */
CUresult cuPointerGetAttribute(void *value, int attribute, uint64_t pointer) { *(uint64_t *)value = pointer; return 0; }
CUresult cuPointerGetAttributes(unsigned count, int *attributes, void **values, uint64_t pointer) { return 0; }

CUresult cuTensorMapEncodeTiled(void) { return 0; }
CUresult cuTensorMapEncodeIm2col(void) { return 0; }
