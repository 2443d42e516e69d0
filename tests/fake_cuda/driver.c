/* A CUDA driver for machines without one: the functions this program calls, on ordinary memory, for
 * one made-up GPU. It checks what it is handed (pointers it gave out, events recorded before they
 * are asked for, launches that fit), runs a "kernel" that answers each request from its own bytes
 * and the weights' first ones, and takes its time over it, so that batches overlap as they would on
 * a GPU. A wrong call ends the process with a message. FAKE_CUDA holds comma-separated faults:
 * no_device, silent, refuse_register, refuse_load, fail_launch, hang, old; slow_bf16, for kernels
 * of bf16 that take 5 seconds to load; tell_loads, which tells of each load; and hopper, for a GPU
 * of another kind, which names each kernel at its first launch.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
enum {
    OK = 0,
    INVALID = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    JIT_COMPILER_NOT_FOUND = 221,
    NOT_READY = 600,
    ALREADY_REGISTERED = 712,
    LAUNCH_FAILED = 719,
    UNKNOWN = 999
};
typedef uint64_t Address;

static int fault(const char *name) {
    const char *faults = getenv("FAKE_CUDA");
    return faults && strstr(faults, name) != NULL;
}
static void broken(const char *what) {
    fprintf(stderr, "fake driver: %s\n", what);
    abort();
}
static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec * 1e-6;
}

/* Memory that the "GPU" may touch. */
#define RANGES 256
static struct { Address from; size_t bytes; int kind; } ranges[RANGES];
enum { NONE, DEVICE, HOST, REGISTERED };
static int add(void *from, size_t bytes, int kind) {
    for (int i = 0; i < RANGES; ++i) if (ranges[i].kind == NONE) {
        ranges[i].from = (Address)from; ranges[i].bytes = bytes; ranges[i].kind = kind;
        return OK;
    }
    return OUT_OF_MEMORY;
}
static int drop(Address from, int kind) {
    for (int i = 0; i < RANGES; ++i) if (ranges[i].kind == kind && ranges[i].from == from) {
        ranges[i].kind = NONE;
        return OK;
    }
    broken("memory given back that was not taken");
    return INVALID;
}
static void *touch(Address at, size_t bytes) {
    for (int i = 0; i < RANGES; ++i)
        if (ranges[i].kind != NONE && at >= ranges[i].from &&
            at + bytes <= ranges[i].from + ranges[i].bytes)
            return (void*)at;
    broken("the kernel reaches outside the memory it may touch");
    return NULL;
}

/* The device's only queue: when it will have finished all, and the kernels that are not run yet. */
struct Arguments {
    Address requests, replies, request_offsets, reply_offsets, weights;
    uint32_t rows, depth, units, reserved;
};
static double busy_until;
#define QUEUE 64
static struct { struct Arguments arguments; double ends; } queue[QUEUE];
static int queued;

static void run(const struct Arguments *a) {
    const uint64_t *from = touch(a->request_offsets, 8 * (size_t)a->rows),
                   *to = touch(a->reply_offsets, 8 * (size_t)a->rows);
    uint64_t weights;
    memcpy(&weights, touch(a->weights, 16), 8);
    for (uint32_t row = 0; row < a->rows; ++row) {
        /* A request: ticket, then hand, played, legal ...; a reply: ticket, 18 priors, 8 values. */
        const unsigned char *request = touch(a->requests + from[row], 96);
        float *reply = touch(a->replies + to[row], 112);
        uint64_t words[12];
        memcpy(words, request, 96);
        uint64_t hash = 1469598103934665603u ^ weights;
        for (int i = 1; i < 12; ++i) hash = (hash ^ words[i]) * 1099511628211u;
        memcpy(reply, &words[0], 8);
        int legal = __builtin_popcountll(words[3]);
        float sum = 0;
        for (int i = 0; i < 18; ++i) {
            hash = hash * 6364136223846793005u + 1442695040888963407u;
            reply[2 + i] = i < legal ? 0.05f + (float)(hash >> 40) / (1 << 24) : 0;
            sum += reply[2 + i];
        }
        for (int i = 0; i < 18; ++i) reply[2 + i] /= sum > 0 ? sum : 1;
        for (int i = 0; i < 8; ++i) {
            hash = hash * 6364136223846793005u + 1442695040888963407u;
            reply[20 + i] = (float)(hash >> 40) / (1 << 23) - 1;
        }
    }
}
/* Runs what would be finished by now. Late, so that whoever reads too early reads the old bytes. */
static void catch_up(double time) {
    while (queued > 0 && queue[0].ends <= time) {
        run(&queue[0].arguments);
        memmove(&queue[0], &queue[1], sizeof queue[0] * (size_t)--queued);
    }
}

struct Event { int recorded; double time; };

/* Shared memory of a block. */
static int most_shared(void) { return fault("hopper") ? 232448 : 101376; }

API int cuInit(unsigned flags) {
    return fault("silent") ? UNKNOWN : fault("no_device") ? NO_DEVICE : flags ? INVALID : OK;
}
API int cuDriverGetVersion(int *version) { *version = fault("old") ? 11080 : 13000; return OK; }
API int cuDeviceGetCount(int *count) { *count = 1; return OK; }
API int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? OK : INVALID;
}
API int cuDeviceGetName(char* name, int length, int device) {
    (void)device;
    snprintf(name, (size_t)length, "Fake GPU");
    return OK;
}
API int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 16: *value = fault("hopper") ? 132 : 24; break;     /* multiprocessors */
    case 38: *value = 32 << 20; break;      /* L2 */
    case 75: *value = fault("hopper") ? 9 : 8; break;        /* capability */
    case 76: *value = fault("hopper") ? 0 : 9; break;
    case 97: *value = most_shared(); break;
    case 115: *value = 1; break;            /* memory pools */
    default: broken("an attribute nobody needs"); return INVALID;
    }
    return OK;
}
API int cuDeviceTotalMem_v2(size_t* bytes, int device) {
    (void)device;
    *bytes = (size_t)8 << 30;
    return OK;
}
static int retained;
static void *current;
API int cuDevicePrimaryCtxRetain(void** context, int device) {
    (void)device;
    *context = &retained;
    ++retained;
    return OK;
}
API int cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    if (--retained < 0) broken("a context released twice");
    for (int i = 0; i < RANGES; ++i)
        if (retained == 0 && ranges[i].kind != NONE) broken("memory left at the context's end");
    return OK;
}
API int cuCtxSetCurrent(void *context) { current = context; return OK; }
API int cuCtxGetCurrent(void **context) { *context = current; return OK; }
API int cuCtxSynchronize(void) {
    while (fault("hang") && now() < busy_until) {}
    catch_up(busy_until);
    return OK;
}
API int cuMemAlloc_v2(Address *at, size_t bytes) {
    void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    *at = (Address)memory;
    return add(memory, bytes, DEVICE);
}
API int cuMemFree_v2(Address at) { int done = drop(at, DEVICE); free((void *)at); return done; }
API int cuMemGetInfo_v2(size_t* available, size_t* total) {
    *total = (size_t)8 << 30;
    *available = *total - ((size_t)300 << 20);
    return OK;
}
API int cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) {
    memcpy(touch(to, bytes), from, bytes);
    return OK;
}
API int cuMemHostAlloc(void **at, size_t bytes, unsigned flags) {
    if (!(flags & 2)) broken("host memory that the GPU does not see");
    *at = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    memset(*at, 0xaa, bytes);
    return add(*at, bytes, HOST);
}
API int cuMemFreeHost(void *at) { int done = drop((Address)at, HOST); free(at); return done; }
API int cuMemHostGetDevicePointer_v2(Address* address, void* host, unsigned flags) {
    *address = (Address)touch((Address)host, 1);
    return flags ? INVALID : OK;
}
API int cuMemHostRegister_v2(void *at, size_t bytes, unsigned flags) {
    if (!(flags & 2)) broken("host memory that the GPU does not see");
    for (int i = 0; i < RANGES; ++i)
        if (ranges[i].kind == REGISTERED && ranges[i].from == (Address)at)
            return ALREADY_REGISTERED;
    return fault("refuse_register") ? OUT_OF_MEMORY : add(at, bytes, REGISTERED);
}
API int cuMemHostUnregister(void *at) { return drop((Address)at, REGISTERED); }
API int cuModuleLoadData(void **module, const char *image) {
    if (fault("refuse_load")) return JIT_COMPILER_NOT_FOUND;
    /* PTX for this GPU. */
    if (!strstr(image, fault("hopper") ? ".target sm_90" : ".target sm_80") ||
        !strstr(image, ".entry blobnet_"))
        return 218;
    if (fault("tell_loads")) fprintf(stderr, "fake driver: loads kernels\n");
    if (fault("slow_bf16") && strstr(image, ".bf16.")) sleep(5);
    *module = &busy_until;
    return OK;
}
API int cuModuleUnload(void *module) { (void)module; return OK; }
struct Function { int shared, launched; char name[40]; };
API int cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)module;
    if (strncmp(name, "blobnet_", 8) != 0) return 500;
    struct Function *made = calloc(1, sizeof *made);
    snprintf(made->name, sizeof made->name, "%s", name);
    *function = made;
    return OK;
}
API int cuFuncSetAttribute(struct Function *function, int attribute, int value) {
    if (attribute == 8) function->shared = value;
    return value <= most_shared() ? OK : INVALID;
}
API int cuOccupancyMaxActiveClusters(int* clusters, void* function, const void* config) {
    (void)function;
    (void)config;
    *clusters = 3;
    return OK;
}
API int cuStreamCreate(void **stream, unsigned flags) { (void)flags; *stream = &queued; return OK; }
API int cuStreamDestroy_v2(void *stream) { (void)stream; return OK; }
API int cuEventCreate(struct Event** event, unsigned flags) {
    (void)flags;
    *event = calloc(1, sizeof **event);
    return OK;
}
API int cuEventDestroy_v2(struct Event *event) { free(event); return OK; }
API int cuEventRecord(struct Event *event, void *stream) {
    (void)stream;
    double time = now();
    event->recorded = 1;
    event->time = busy_until > time ? busy_until : time;
    return OK;
}
API int cuEventQuery(struct Event *event) {
    if (!event->recorded) broken("an event asked for that was not recorded");
    double time = now();
    if (time < event->time) return NOT_READY;
    catch_up(time);
    return OK;
}
API int cuEventElapsedTime(float* milliseconds, struct Event* from, struct Event* to) {
    *milliseconds = (float)(to->time - from->time);
    return OK;
}
API int cuEventSynchronize(struct Event *event) { while (cuEventQuery(event) != OK) {} return OK; }
API int cuLaunchKernel(struct Function* function, unsigned gx, unsigned gy, unsigned gz,
                       unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream,
                       void** arguments, void** extra) {
    static int launches;
    (void)stream;
    if (gx == 0 || gy != 1 || gz != 1 || bx == 0 || bx > 1024 || by != 1 || bz != 1 || extra)
        broken("an odd launch");
    if (shared > 49152 && function->shared < (int)shared)
        broken("more shared memory than was asked for");
    int is_late = ++launches > 200;
    if (fault("fail_launch") && is_late) return LAUNCH_FAILED;
    if (bx != 256) broken("a kernel with threads that it is not written for");
    if (fault("hopper") && !function->launched++)
        fprintf(stderr, "fake driver: launches %s\n", function->name);
    struct Arguments a;
    memcpy(&a, arguments[0], sizeof a);
    if (a.rows == 0 || a.depth == 0 || a.units == 0 || queued == QUEUE)
        broken("no rows, or too many launches");
    double start = now();
    if (busy_until > start) start = busy_until;
    busy_until = fault("hang") && is_late ? 1e300 : start + 0.05 + a.rows * 0.0002;
    queue[queued].arguments = a;
    queue[queued++].ends = busy_until;
    return OK;
}
API int cuGetErrorName(int error, const char **name) {
    *name = error == LAUNCH_FAILED   ? "CUDA_ERROR_LAUNCH_FAILED"
            : error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
            : error == JIT_COMPILER_NOT_FOUND
                ? "CUDA_ERROR_JIT_COMPILER_NOT_FOUND"
                : "CUDA_ERROR_UNKNOWN";
    return OK;
}
