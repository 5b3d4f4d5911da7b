// A USB camera in user space: preloaded before OpenCV, it answers for the file $FAKE_CAMERA as Video4Linux would. It
// offers MJPEG and YUYV, sends the JPEG of $FAKE_PICTURE 25 times a second with the kernel's clock, and is unplugged
// when the file is gone. What was asked of it is written to $FAKE_CAMERA.log.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { BUFFERS = 8, SIZE = 1 << 20 };

static int camera = -1, first, waiting, width = 640, height = 480, sequence;
static unsigned format = V4L2_PIX_FMT_YUYV;
static char *memory;

static void note(const char *text, int a, int b) {
  char path[4096];
  snprintf(path, sizeof path, "%s.log", getenv("FAKE_CAMERA"));
  FILE *log = fopen(path, "a");
  if (!log) return;
  fprintf(log, text, a, b);
  fclose(log);
}

static int open_any(const char *name, const char *path, int flags, mode_t mode) {
  int (*really)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
  const char *ours = getenv("FAKE_CAMERA");
  if (!ours || flags & O_CREAT || strcmp(path, ours)) return really(path, flags, mode);
  if (access(path, F_OK)) return -1;
  memory = mmap(NULL, BUFFERS * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  waiting = first = 0;
  return camera = eventfd(1, 0);  // always readable: a picture is always there
}

int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return open_any("open", path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return open_any("open64", path, flags, mode);
}

int close(int fd) {
  int (*really)(int) = dlsym(RTLD_NEXT, "close");
  if (fd == camera && fd >= 0) camera = -1, note("closed\n", 0, 0);
  return really(fd);
}

static void *map_any(const char *name, void *at, size_t size, int prot, int flags, int fd, off_t offset) {
  void *(*really)(void *, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, name);
  if (fd < 0 || fd != camera) return really(at, size, prot, flags, fd, offset);
  return memory + offset;
}

void *mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset) {
  return map_any("mmap", at, size, prot, flags, fd, offset);
}

void *mmap64(void *at, size_t size, int prot, int flags, int fd, off_t offset) {
  return map_any("mmap64", at, size, prot, flags, fd, offset);
}

int munmap(void *at, size_t size) {
  int (*really)(void *, size_t) = dlsym(RTLD_NEXT, "munmap");
  return memory && (char *)at >= memory && (char *)at < memory + BUFFERS * SIZE ? 0 : really(at, size);
}

static int describe(struct v4l2_format *wanted, int set) {
  struct v4l2_pix_format *pix = &wanted->fmt.pix;
  if (wanted->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return errno = EINVAL, -1;
  if (set && (pix->pixelformat == V4L2_PIX_FMT_MJPEG || pix->pixelformat == V4L2_PIX_FMT_YUYV)) {
    format = pix->pixelformat, width = pix->width, height = pix->height;
    note(format == V4L2_PIX_FMT_MJPEG ? "MJPG %d x %d\n" : "YUYV %d x %d\n", width, height);
  }
  pix->pixelformat = format, pix->width = width, pix->height = height;
  pix->field = V4L2_FIELD_NONE, pix->bytesperline = 2 * width, pix->sizeimage = SIZE;
  return 0;
}

static int give(struct v4l2_buffer *buffer) {
  struct timespec interval = {.tv_nsec = 40000000}, now;
  nanosleep(&interval, NULL);
  if (!waiting) return errno = EAGAIN, -1;
  char *place = memory + first * SIZE;
  FILE *picture = fopen(getenv("FAKE_PICTURE"), "rb");
  buffer->index = first, buffer->bytesused = fread(place, 1, SIZE, picture), buffer->length = SIZE;
  fclose(picture);
  clock_gettime(CLOCK_MONOTONIC, &now);
  buffer->timestamp.tv_sec = now.tv_sec, buffer->timestamp.tv_usec = now.tv_nsec / 1000;
  buffer->sequence = sequence++, buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
  buffer->m.offset = first * SIZE;
  first = (first + 1) % BUFFERS, waiting--;
  return 0;
}

int ioctl(int fd, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  int (*really)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
  if (fd < 0 || fd != camera) return really(fd, request, argument);
  if (access(getenv("FAKE_CAMERA"), F_OK)) return errno = ENODEV, -1;
  switch (request) {
    case VIDIOC_QUERYCAP: {
      struct v4l2_capability *can = argument;
      memset(can, 0, sizeof *can);
      strcpy((char *)can->driver, "fake");
      can->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING | V4L2_CAP_DEVICE_CAPS;
      can->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
      return 0;
    }
    case VIDIOC_G_FMT: return describe(argument, 0);
    case VIDIOC_TRY_FMT:
    case VIDIOC_S_FMT: return describe(argument, 1);
    case VIDIOC_REQBUFS: {
      struct v4l2_requestbuffers *wanted = argument;
      if (wanted->count > BUFFERS) wanted->count = BUFFERS;
      first = waiting = 0;
      return 0;
    }
    case VIDIOC_QUERYBUF: {
      struct v4l2_buffer *buffer = argument;
      buffer->length = SIZE, buffer->m.offset = buffer->index * SIZE;
      return 0;
    }
    case VIDIOC_QBUF:
      if (!waiting++) first = ((struct v4l2_buffer *)argument)->index;
      return 0;
    case VIDIOC_DQBUF: return give(argument);
    case VIDIOC_STREAMON:
    case VIDIOC_STREAMOFF:
    case VIDIOC_G_INPUT:
    case VIDIOC_S_INPUT:
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: return 0;
    default: return errno = EINVAL, -1;
  }
}
