// A CUDA driver that offers one GPU and can do nothing with it; with HOLLOW_DRIVER_ERROR, one that does not start.
#include <cstdlib>

extern "C" int cuInit(unsigned) {
  const char* error = std::getenv("HOLLOW_DRIVER_ERROR");
  return error != nullptr ? std::atoi(error) : 0;
}
extern "C" int cuDeviceGetCount(int* count) {
  *count = 1;
  return 0;
}
extern "C" int cuGetErrorString(int, const char** text) {
  *text = "system not yet initialized";
  return 0;
}
