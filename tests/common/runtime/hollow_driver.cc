// A CUDA driver that offers one GPU and can do nothing with it.
extern "C" int cuInit(unsigned) { return 0; }
extern "C" int cuDeviceGetCount(int* count) {
  *count = 1;
  return 0;
}
