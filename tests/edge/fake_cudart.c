// A CUDA runtime whose GPU is the heap. Copies are queued and run only when the stream is flushed or synchronised, so a
// caller that forgets to wait reads stale memory; copies that leave an allocation are errors; what is not freed counts.

#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, MAX = 256 };

typedef struct { char *start; size_t size; } Block;
typedef struct { void *target; const void *source; size_t size; } Copy;

static Block device_blocks[MAX], host_blocks[MAX];
static Copy queue[MAX];
static int queued, streams, gpus = 1, fails_after = -1;

static int add(Block *blocks, void **out, size_t size) {
  if (fails_after == 0) return OUT_OF_MEMORY;
  if (fails_after > 0) fails_after--;
  for (int i = 0; i < MAX; i++)
    if (!blocks[i].start) {
      blocks[i].start = *out = malloc(size);
      blocks[i].size = size;
      memset(*out, 0xAB, size);  // fresh memory holds rubbish
      return OK;
    }
  return OUT_OF_MEMORY;
}

static int drop(Block *blocks, void *start) {
  for (int i = 0; i < MAX; i++)
    if (start && blocks[i].start == start) {
      free(start);
      blocks[i].start = NULL;
      return OK;
    }
  return INVALID;
}

static int inside(const Block *blocks, const char *start, size_t size) {
  for (int i = 0; i < MAX; i++)
    if (blocks[i].start && start >= blocks[i].start && start + size <= blocks[i].start + blocks[i].size) return 1;
  return 0;
}

static int live(const Block *blocks) {
  int count = 0;
  for (int i = 0; i < MAX; i++) count += blocks[i].start != NULL;
  return count;
}

int cudaGetDeviceCount(int *count) { *count = gpus; return gpus ? OK : NO_DEVICE; }

int cudaGetDeviceProperties(void *properties, int device) { strcpy(properties, "Orin"); return device; }

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 16 ? 16 : -1;
  return device;
}

int cudaMalloc(void **out, size_t size) { return add(device_blocks, out, size); }
int cudaFree(void *start) { return drop(device_blocks, start); }
int cudaHostAlloc(void **out, size_t size, unsigned flags) { return flags ? INVALID : add(host_blocks, out, size); }
int cudaFreeHost(void *start) { return drop(host_blocks, start); }

int cudaStreamCreateWithFlags(void **stream, unsigned flags) {
  streams++;
  *stream = queue;
  return flags == 1 ? OK : INVALID;
}

int cudaStreamDestroy(void *stream) { streams--; return stream == queue ? OK : INVALID; }

int cudaMemcpyAsync(void *target, const void *source, size_t size, int kind, void *stream) {
  const Block *to = kind == 1 ? device_blocks : host_blocks, *from = kind == 1 ? host_blocks : device_blocks;
  if (stream != queue || queued == MAX || !inside(to, target, size) || !inside(from, source, size)) return INVALID;
  queue[queued++] = (Copy){target, source, size};
  return OK;
}

int cudaStreamSynchronize(void *stream) {
  for (int i = 0; i < queued; i++) memcpy(queue[i].target, queue[i].source, queue[i].size);
  queued = 0;
  return stream == queue ? OK : INVALID;
}

const char *cudaGetErrorString(int status) {
  return status == OUT_OF_MEMORY ? "out of memory" : status == NO_DEVICE ? "no CUDA-capable device is detected" : "invalid argument";
}

// For the tests alone.
int fake_live(void) { return live(device_blocks) + live(host_blocks) + streams; }
void fake_set_gpus(int count) { gpus = count; }
void fake_fail_after(int allocations) { fails_after = allocations; }
int fake_on_device(const void *start, size_t size) { return inside(device_blocks, start, size); }
