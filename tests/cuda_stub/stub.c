/* A stand-in for libcuda.so.1, for tests of what is above the driver on machines without a GPU.
 *
 * "Device memory" is files in $CUDA_STUB_DIR, mapped, so a device address can be read and written by the test. An
 * allocation lives as long as any process has it open or mapped: each holds a shared flock through the descriptor that
 * it maps, and a file that nobody has locked is counted as free and removed. That is the documented rule for VMM memory,
 * and what was seen of legacy IPC. Copies run on a thread for each stream, a segment at a time, as slowly as the control
 * file says. Stricter than the real one: a copy's host side must be page-locked within one registration, and its device
 * side must be mapped.
 *
 * $CUDA_STUB_DIR/control is written by the test (see stub.py); $CUDA_STUB_UUIDS names the GPUs that this process sees.
 */
#define _GNU_SOURCE
#if __has_include(<cuda.h>)
#include <cuda.h>
#else
#include "cuda_types.h"
#endif
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define GRANULARITY (64 * 1024)
#define MAX_MAPPINGS 512
#define MAX_PINNED 512
#define MAX_FAULTS 8

_Static_assert(sizeof(CUmemAllocationProp) == 32, "client.cuda_driver.MemAllocationProp has 32 bytes");
_Static_assert(sizeof(CUipcMemHandle) == 64 && sizeof(CUuuid) == 16, "contract.sharing");
_Static_assert(offsetof(CUmemAllocationProp, requestedHandleTypes) == 4, "client.cuda_driver.MemAllocationProp");

/* offset size: 0 total bytes u64; 8 hold u32; 12 delay in us a segment u32; 16 largest pitch u32; 20 copies begun u32;
 * 24 copies done u32; 28 2-D copies u32; 32 pinned bytes u64; 64 faults of 64 bytes: name 56, result i32, skip i32 */
struct control {
    uint64_t total_bytes;
    _Atomic uint32_t hold;
    uint32_t delay_us, max_pitch;
    _Atomic uint32_t begun, done, two_d;
    _Atomic uint64_t pinned_bytes;
    char reserved[24];
    struct { char name[56]; int32_t result; _Atomic int32_t skip; } faults[MAX_FAULTS];
};
_Static_assert(sizeof(struct control) == 64 + 64 * MAX_FAULTS, "stub.py");

struct allocation { int fd; size_t size; int types; int references; int is_vmm; char name[64]; };
struct mapping { uintptr_t base; size_t size; struct allocation *allocation; };
struct operation { struct operation *next; CUDA_MEMCPY2D copy; CUevent event; };
struct CUevent_st { int recorded, reached; };
struct CUstream_st { struct operation *first, *last; int running; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct mapping mappings[MAX_MAPPINGS];
static struct { uintptr_t base; size_t size; } pinned[MAX_PINNED];
static struct control *control;
static char directory[512];
static unsigned made;
static int sticky;
static __thread int has_context;

static struct control *get_control(void) {
    if (!control) {
        const char *place = getenv("CUDA_STUB_DIR");
        char path[600];
        snprintf(directory, sizeof directory, "%s", place ? place : "/nonexistent");
        snprintf(path, sizeof path, "%s/control", directory);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd >= 0) close(fd);
        if (memory == MAP_FAILED) { fprintf(stderr, "cuda stub: no %s\n", path); abort(); }
        control = memory;
    }
    return control;
}

/* The result that the test wants from a call, after `skip` good ones; a sticky one once something failed for good. */
static CUresult fault(const char *name) {
    struct control *c = get_control();
    for (int i = 0; i < MAX_FAULTS; i++)
        if (c->faults[i].result && !strcmp(c->faults[i].name, name) && atomic_fetch_sub(&c->faults[i].skip, 1) <= 0)
            return c->faults[i].result;
    return sticky;
}
#define BEGIN() do { CUresult wanted_ = fault(__func__); if (wanted_) return wanted_; } while (0)
#define BEGIN_IN_CONTEXT() do { BEGIN(); if (!has_context) return CUDA_ERROR_INVALID_CONTEXT; } while (0)

static struct mapping *find(uintptr_t address) {
    for (int i = 0; i < MAX_MAPPINGS; i++)
        if (mappings[i].size && address >= mappings[i].base && address < mappings[i].base + mappings[i].size)
            return &mappings[i];
    return NULL;
}

static CUresult remember(uintptr_t base, size_t size, struct allocation *allocation) {
    for (int i = 0; i < MAX_MAPPINGS; i++)
        if (!mappings[i].size) {
            mappings[i] = (struct mapping){base, size, allocation};
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_OUT_OF_MEMORY;
}

static int is_mapped(uintptr_t address, size_t size) {
    for (uintptr_t end = address + size; address < end;) {
        struct mapping *m = find(address);
        if (!m) return 0;
        address = m->base + m->size;
    }
    return 1;
}

static int is_pinned(uintptr_t address, size_t size) {
    for (int i = 0; i < MAX_PINNED; i++)
        if (pinned[i].size && address >= pinned[i].base && address + size <= pinned[i].base + pinned[i].size) return 1;
    return 0;
}

/* Bytes that anybody still has; what nobody has is removed. With the directory's lock held. */
static uint64_t used_bytes(void) {
    uint64_t sum = 0;
    DIR *dir = opendir(directory);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (strncmp(entry->d_name, "alloc-", 6)) continue;
        int fd = openat(dirfd(dir), entry->d_name, O_RDWR | O_CLOEXEC);
        struct stat status;
        if (fd < 0) continue;
        if (!flock(fd, LOCK_EX | LOCK_NB)) unlinkat(dirfd(dir), entry->d_name, 0);
        else if (!fstat(fd, &status)) sum += status.st_size;
        close(fd);
    }
    if (dir) closedir(dir);
    return sum;
}

static int lock_directory(void) {
    char path[600];
    get_control();
    snprintf(path, sizeof path, "%s/lock", directory);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    flock(fd, LOCK_EX);
    return fd;
}

static CUresult create(size_t size, int is_vmm, int types, struct allocation **out) {
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    int guard = lock_directory();
    if (used_bytes() + size <= control->total_bytes) {
        struct allocation *a = calloc(1, sizeof *a);
        char path[700];
        snprintf(a->name, sizeof a->name, "alloc-%d-%u", getpid(), made++);
        snprintf(path, sizeof path, "%s/%s", directory, a->name);
        a->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        a->size = size, a->types = types, a->references = 1, a->is_vmm = is_vmm;
        if (a->fd >= 0 && !flock(a->fd, LOCK_SH) && !ftruncate(a->fd, size)) result = CUDA_SUCCESS, *out = a;
    }
    close(guard);
    return result;
}

static void drop(struct allocation *a) {
    if (--a->references == 0) { close(a->fd); free(a); }
}

/* -- library, devices, contexts ------------------------------------------------------------------------------------ */

static int device_count(void) {
    const char *uuids = getenv("CUDA_STUB_UUIDS");
    return uuids ? (int)(strlen(uuids) + 1) / 33 : 0;
}

EXPORT CUresult cuInit(unsigned int flags) { BEGIN(); return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS; }
EXPORT CUresult cuDriverGetVersion(int *version) { *version = 13000; return CUDA_SUCCESS; }
EXPORT CUresult cuDeviceGetCount(int *count) { BEGIN(); *count = device_count(); return CUDA_SUCCESS; }
EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    BEGIN();
    *device = ordinal;
    return ordinal >= 0 && ordinal < device_count() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
    BEGIN();
    if (device < 0 || device >= device_count()) return CUDA_ERROR_INVALID_DEVICE;
    const char *text = getenv("CUDA_STUB_UUIDS") + 33 * device;
    for (int i = 0; i < 16; i++) {
        unsigned value = 0;
        sscanf(text + 2 * i, "%2x", &value);
        uuid->bytes[i] = (char)value;
    }
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    BEGIN();
    (void)device;
    *value = attribute == CU_DEVICE_ATTRIBUTE_MAX_PITCH ? (int)get_control()->max_pitch : 0;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned int flags) {
    (void)device, (void)flags;
    BEGIN();
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    BEGIN();
    *context = (CUcontext)(uintptr_t)(device + 1);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxSetCurrent(CUcontext context) { BEGIN(); has_context = context != NULL; return CUDA_SUCCESS; }
EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) { BEGIN(); has_context += context != NULL; return CUDA_SUCCESS; }
EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    BEGIN();
    *context = (CUcontext)1;
    return has_context-- > 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
EXPORT CUresult cuCtxSynchronize(void) { BEGIN_IN_CONTEXT(); return CUDA_SUCCESS; }
EXPORT CUresult cuGetErrorName(CUresult error, const char **text) {
    switch ((int)error) {
#define NAME(name) case name: *text = #name; return CUDA_SUCCESS;
    NAME(CUDA_ERROR_INVALID_VALUE) NAME(CUDA_ERROR_OUT_OF_MEMORY) NAME(CUDA_ERROR_INVALID_CONTEXT)
    NAME(CUDA_ERROR_INVALID_DEVICE) NAME(CUDA_ERROR_ECC_UNCORRECTABLE) NAME(CUDA_ERROR_NO_DEVICE)
    default: return CUDA_ERROR_INVALID_VALUE;
    }
}

/* -- memory -------------------------------------------------------------------------------------------------------- */

EXPORT CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    BEGIN_IN_CONTEXT();
    int guard = lock_directory();
    *total = control->total_bytes;
    *free_bytes = *total - used_bytes();
    close(guard);
    return CUDA_SUCCESS;
}
static CUresult map_all(struct allocation *a, CUdeviceptr *out) {
    void *memory = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_SHARED, a->fd, 0);
    if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    *out = (CUdeviceptr)(uintptr_t)memory;
    return remember((uintptr_t)memory, a->size, a);
}
EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *out, size_t size) {
    struct allocation *a;
    BEGIN_IN_CONTEXT();
    CUresult result = create(size, 0, 0, &a);
    return result ? result : map_all(a, out);
}
EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
    BEGIN_IN_CONTEXT();
    struct mapping *m = find(address);
    if (!m || m->base != address) return CUDA_ERROR_INVALID_VALUE;
    munmap((void *)m->base, m->size);
    drop(m->allocation);
    m->size = 0;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr address) {
    BEGIN_IN_CONTEXT();
    struct mapping *m = find(address);
    if (!m) return CUDA_ERROR_NOT_FOUND;
    *base = m->base, *size = m->size;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr address) {
    BEGIN();
    struct mapping *m = find(address);
    if (!m) return CUDA_ERROR_INVALID_VALUE;
    switch ((int)attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: *(CUcontext *)data = (CUcontext)(uintptr_t)!m->allocation->is_vmm; break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)data = 0; break;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE: *(char *)data = !m->allocation->is_vmm; break;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR: *(CUdeviceptr *)data = m->base; break;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE: *(size_t *)data = m->size; break;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}
EXPORT CUresult cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr address) {
    BEGIN_IN_CONTEXT();
    struct mapping *m = find(address);
    if (!m || m->allocation->is_vmm) return CUDA_ERROR_INVALID_VALUE;
    memset(handle, 0, sizeof *handle);
    memcpy(handle->reserved, m->allocation->name, strlen(m->allocation->name));
    return CUDA_SUCCESS;
}
EXPORT CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *out, CUipcMemHandle handle, unsigned int flags) {
    BEGIN_IN_CONTEXT();
    char path[700];
    int owner = 0;
    struct stat status;
    (void)flags;
    snprintf(path, sizeof path, "%s/%.63s", directory, handle.reserved);
    struct allocation *a = calloc(1, sizeof *a);
    a->fd = open(path, O_RDWR | O_CLOEXEC);
    /* A handle is of no use once its owner is gone. */
    if (a->fd < 0 || sscanf(handle.reserved, "alloc-%d-", &owner) != 1 || kill(owner, 0)) return CUDA_ERROR_INVALID_VALUE;
    flock(a->fd, LOCK_SH);
    fstat(a->fd, &status);
    a->size = status.st_size, a->references = 1;
    return map_all(a, out);
}

EXPORT CUresult cuMemGetAllocationGranularity(
    size_t *granularity, const CUmemAllocationProp *properties, CUmemAllocationGranularity_flags option) {
    (void)properties, (void)option;
    BEGIN();
    *granularity = GRANULARITY;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemCreate(
    CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *properties, unsigned long long flags) {
    struct allocation *a;
    (void)flags;
    BEGIN();
    if (!size || size % GRANULARITY) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = create(size, 1, (int)properties->requestedHandleTypes, &a);
    if (!result) *handle = (CUmemGenericAllocationHandle)(uintptr_t)a;
    return result;
}
EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    BEGIN();
    drop((struct allocation *)(uintptr_t)handle);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemAddressReserve(
    CUdeviceptr *out, size_t size, size_t alignment, CUdeviceptr address, unsigned long long flags) {
    (void)alignment, (void)address, (void)flags;
    BEGIN();
    void *memory = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *out = (CUdeviceptr)(uintptr_t)memory;
    return memory == MAP_FAILED ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
EXPORT CUresult cuMemMap(
    CUdeviceptr address, size_t size, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags) {
    struct allocation *a = (struct allocation *)(uintptr_t)handle;
    (void)flags;
    BEGIN();
    if (offset || size != a->size) return CUDA_ERROR_INVALID_VALUE;
    void *memory = mmap((void *)(uintptr_t)address, size, PROT_NONE, MAP_SHARED | MAP_FIXED, a->fd, 0);
    if (memory == MAP_FAILED) return CUDA_ERROR_INVALID_VALUE;
    a->references++;
    return remember((uintptr_t)address, size, a);
}
EXPORT CUresult cuMemSetAccess(CUdeviceptr address, size_t size, const CUmemAccessDesc *access, size_t count) {
    BEGIN();
    if (count != 1 || (int)access->flags != 3 || (int)access->location.type != 1 || !is_mapped(address, size))
        return CUDA_ERROR_INVALID_VALUE;
    return mprotect((void *)(uintptr_t)address, size, PROT_READ | PROT_WRITE) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
EXPORT CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address) {
    BEGIN();
    struct mapping *m = find((uintptr_t)address);
    if (!m || !m->allocation->is_vmm) return CUDA_ERROR_INVALID_VALUE;
    m->allocation->references++;
    *handle = (CUmemGenericAllocationHandle)(uintptr_t)m->allocation;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemGetAllocationPropertiesFromHandle(
    CUmemAllocationProp *properties, CUmemGenericAllocationHandle handle) {
    BEGIN();
    memset(properties, 0, sizeof *properties);
    properties->requestedHandleTypes = ((struct allocation *)(uintptr_t)handle)->types;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemExportToShareableHandle(
    void *out, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType type, unsigned long long flags) {
    struct allocation *a = (struct allocation *)(uintptr_t)handle;
    BEGIN();
    if (flags || (int)type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || !(a->types & (int)type))
        return CUDA_ERROR_INVALID_VALUE;
    *(int *)out = fcntl(a->fd, F_DUPFD_CLOEXEC, 3); /* the same open file: its lock lasts as long as any of them */
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemImportFromShareableHandle(
    CUmemGenericAllocationHandle *handle, void *os_handle, CUmemAllocationHandleType type) {
    struct stat status;
    BEGIN();
    struct allocation *a = calloc(1, sizeof *a);
    a->fd = fcntl((int)(uintptr_t)os_handle, F_DUPFD_CLOEXEC, 3);
    if (a->fd < 0 || fstat(a->fd, &status)) return CUDA_ERROR_INVALID_VALUE;
    a->size = status.st_size, a->types = (int)type, a->references = 1, a->is_vmm = 1;
    *handle = (CUmemGenericAllocationHandle)(uintptr_t)a;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemHostRegister_v2(void *address, size_t size, unsigned int flags) {
    uintptr_t base = (uintptr_t)address;
    (void)flags;
    BEGIN_IN_CONTEXT();
    if (!size || base % 4096 || size % 4096) return CUDA_ERROR_INVALID_VALUE;
    for (int i = 0; i < MAX_PINNED; i++)
        if (pinned[i].size && base < pinned[i].base + pinned[i].size && pinned[i].base < base + size)
            return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    for (int i = 0; i < MAX_PINNED; i++)
        if (!pinned[i].size) {
            pinned[i].base = base, pinned[i].size = size;
            control->pinned_bytes += size;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_OUT_OF_MEMORY;
}

/* -- streams, events, copies --------------------------------------------------------------------------------------- */

static void run_copy(const CUDA_MEMCPY2D *c) {
    uintptr_t from = (int)c->srcMemoryType == CU_MEMORYTYPE_HOST ? (uintptr_t)c->srcHost : (uintptr_t)c->srcDevice;
    uintptr_t to = (int)c->dstMemoryType == CU_MEMORYTYPE_HOST ? (uintptr_t)c->dstHost : (uintptr_t)c->dstDevice;
    atomic_fetch_add(&control->begun, 1);
    for (size_t row = 0; row < c->Height; row++) {
        size_t half = c->WidthInBytes / 2; /* a segment is not copied in one go either */
        memcpy((void *)(to + row * c->dstPitch), (void *)(from + row * c->srcPitch), half);
        while (control->hold) usleep(200);
        if (control->delay_us) usleep(control->delay_us);
        memcpy((void *)(to + row * c->dstPitch + half), (void *)(from + row * c->srcPitch + half), c->WidthInBytes - half);
    }
    CUresult failed = fault("async_copy");
    if (failed) sticky = failed;
    atomic_fetch_add(&control->done, 1);
}

static void *work(void *argument) {
    CUstream stream = argument;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!stream->first) pthread_cond_wait(&changed, &lock);
        struct operation *operation = stream->first;
        pthread_mutex_unlock(&lock);
        if (!operation->event) run_copy(&operation->copy);
        pthread_mutex_lock(&lock);
        if (operation->event) operation->event->reached++;
        stream->first = operation->next;
        free(operation);
        pthread_cond_broadcast(&changed);
    }
    return NULL;
}

static void enqueue(CUstream stream, struct operation *operation) {
    pthread_mutex_lock(&lock);
    if (stream->first) stream->last->next = operation;
    else stream->first = operation;
    stream->last = operation;
    if (operation->event) operation->event->recorded++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
    pthread_t thread;
    (void)flags;
    BEGIN_IN_CONTEXT();
    *stream = calloc(1, sizeof **stream);
    pthread_create(&thread, NULL, work, *stream);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamSynchronize(CUstream stream) {
    BEGIN_IN_CONTEXT();
    pthread_mutex_lock(&lock);
    while (stream->first) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    return sticky;
}
EXPORT CUresult cuEventCreate(CUevent *event, unsigned int flags) {
    (void)flags;
    BEGIN_IN_CONTEXT();
    *event = calloc(1, sizeof **event);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuEventRecord(CUevent event, CUstream stream) {
    BEGIN_IN_CONTEXT();
    struct operation *operation = calloc(1, sizeof *operation);
    operation->event = event;
    enqueue(stream, operation);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuEventSynchronize(CUevent event) {
    BEGIN_IN_CONTEXT();
    pthread_mutex_lock(&lock);
    for (int wanted = event->recorded; event->reached < wanted;) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    return sticky;
}
static CUresult begin_copy(const CUDA_MEMCPY2D *c, CUstream stream) {
    int out = (int)c->srcMemoryType == CU_MEMORYTYPE_DEVICE && (int)c->dstMemoryType == CU_MEMORYTYPE_HOST;
    int in = (int)c->srcMemoryType == CU_MEMORYTYPE_HOST && (int)c->dstMemoryType == CU_MEMORYTYPE_DEVICE;
    if ((!in && !out) || !c->WidthInBytes || !c->Height) return CUDA_ERROR_INVALID_VALUE;
    uintptr_t device = out ? c->srcDevice : c->dstDevice, host = out ? (uintptr_t)c->dstHost : (uintptr_t)c->srcHost;
    size_t device_pitch = out ? c->srcPitch : c->dstPitch, host_pitch = out ? c->dstPitch : c->srcPitch;
    for (size_t row = 0; row < c->Height; row++)
        if (!is_mapped(device + row * device_pitch, c->WidthInBytes) || !is_pinned(host + row * host_pitch, c->WidthInBytes))
            return CUDA_ERROR_INVALID_VALUE;
    struct operation *operation = calloc(1, sizeof *operation);
    operation->copy = *c;
    enqueue(stream, operation);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr device, const void *host, size_t size) {
    BEGIN_IN_CONTEXT();
    if (!is_mapped(device, size)) return CUDA_ERROR_INVALID_VALUE;
    memcpy((void *)(uintptr_t)device, host, size);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemcpyDtoH_v2(void *host, CUdeviceptr device, size_t size) {
    BEGIN_IN_CONTEXT();
    if (!is_mapped(device, size)) return CUDA_ERROR_INVALID_VALUE;
    memcpy(host, (void *)(uintptr_t)device, size);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemsetD8_v2(CUdeviceptr device, unsigned char byte, size_t size) {
    BEGIN_IN_CONTEXT();
    if (!is_mapped(device, size)) return CUDA_ERROR_INVALID_VALUE;
    memset((void *)(uintptr_t)device, byte, size);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *c, CUstream stream) {
    BEGIN_IN_CONTEXT();
    size_t limit = get_control()->max_pitch;
    if (c->srcPitch < c->WidthInBytes || c->dstPitch < c->WidthInBytes || c->srcPitch > limit || c->dstPitch > limit)
        return CUDA_ERROR_INVALID_VALUE;
    if (c->srcXInBytes || c->srcY || c->dstXInBytes || c->dstY) return CUDA_ERROR_INVALID_VALUE;
    atomic_fetch_add(&control->two_d, 1);
    return begin_copy(c, stream);
}
static CUresult copy_1d(CUDA_MEMCPY2D c, size_t size, CUstream stream) {
    c.WidthInBytes = c.srcPitch = c.dstPitch = size, c.Height = 1;
    return begin_copy(&c, stream);
}
EXPORT CUresult cuMemcpyDtoHAsync_v2(void *host, CUdeviceptr device, size_t size, CUstream stream) {
    CUDA_MEMCPY2D c = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = device, .dstMemoryType = CU_MEMORYTYPE_HOST};
    BEGIN_IN_CONTEXT();
    c.dstHost = host;
    return copy_1d(c, size, stream);
}
EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr device, const void *host, size_t size, CUstream stream) {
    CUDA_MEMCPY2D c = {.srcMemoryType = CU_MEMORYTYPE_HOST, .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = device};
    BEGIN_IN_CONTEXT();
    c.srcHost = host;
    return copy_1d(c, size, stream);
}

/* For a test process that goes on after it has used the library as a copier would only once. */
EXPORT void rekindle_stub_forget(void) {
    memset(pinned, 0, sizeof pinned);
    for (int i = 0; i < MAX_MAPPINGS; i++) {
        if (!mappings[i].size) continue;
        munmap((void *)mappings[i].base, mappings[i].size);
        drop(mappings[i].allocation);
        mappings[i].size = 0;
    }
}

/* -- how cuda-bindings finds all this ------------------------------------------------------------------------------ */

EXPORT CUresult cuGetProcAddress_v2(
    const char *symbol, void **out, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status) {
    Dl_info self;
    char name[128];
    (void)version, (void)flags;
    dladdr((void *)cuInit, &self);
    void *library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    snprintf(name, sizeof name, "%s_v2", symbol);
    *out = dlsym(library, name);
    if (!*out) *out = dlsym(library, symbol);
    if (status) *status = *out ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *out ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
