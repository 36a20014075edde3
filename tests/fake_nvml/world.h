/* The data of the fake library: read from a file, and again when the file changes. */
#ifndef FAKE_NVML_WORLD_H
#define FAKE_NVML_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nvml_types.h"

#define EXPORT __attribute__((visibility("default")))

struct value {
    const char *text;
    bool is_null;
    bool is_number;
    unsigned long long u; /* two's complement for negative integers */
    double d;
};

struct process {
    unsigned int pid;
    unsigned long long used_memory;
    unsigned long long protected_memory;
    unsigned int gpu_instance, compute_instance;
    bool compute, graphics, mps;
    bool has_utilization;
    unsigned int sm, mem, enc, dec, jpg, ofa;
    const char *name;
};

struct event {
    unsigned long long id, type, data;
    const char *uuid;
    unsigned int gpu_instance, compute_instance;
};

/* A number that may grow with time; see find_counter. */
struct counter {
    bool known;
    unsigned long long value, mask;
    double per_second;
    long long since_ns;
};

/* Counters of one NVLink link. They are read often, so they are looked up when the world is loaded. */
#define LINK_COUNTERS 4
extern const char *const link_counters[LINK_COUNTERS];

struct table;

/* One device, or the machine as a whole. */
struct section {
    struct table *values;
    struct table *faults;
    const char *uuid;
    struct section *parent; /* the GPU of a MIG instance */
    unsigned int index;
    struct process *processes;
    unsigned int process_count;
    struct section *instances;
    unsigned int instance_count;
    struct counter (*links)[LINK_COUNTERS]; /* NVLink */
    unsigned int link_count;
};

struct world {
    struct section machine;
    struct section *gpus;
    unsigned int gpu_count;
    struct event *events;
    unsigned int event_count;
    char *text;
    bool loaded; /* false: there is no world file, so no driver */
};

/* The target of a device handle. It stays valid when the world is reloaded, as a real handle when its GPU is lost. */
struct nvmlDevice_st {
    char uuid[96];
    const struct section *section; /* NULL: the GPU is lost */
    struct nvmlDevice_st *parent;
};

extern const struct world *world;

/* --- values of a section by dotted key ----------------------------------------------------------------------- */
const struct value *find(const struct section *section, const char *key);
const struct value *findf(const struct section *section, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
bool find_uint(const struct section *section, const char *key, unsigned int *out);
/* A counter is a number, or `key.value` growing by `key.per_second` since `key.since_ns` (CLOCK_MONOTONIC). */
bool find_counter(const struct section *section, const char *key, unsigned long long *out);
unsigned long long counter_now(const struct counter *counter);
nvmlReturn_t copy_text(const struct value *value, char *buffer, unsigned int length);

/* --- entering and leaving a library call --------------------------------------------------------------------- */
/* Both apply latency, hang and crash faults, and hold the read lock of the world when they return any code. */
nvmlReturn_t enter_machine(const char *function, bool needs_init);
nvmlReturn_t enter_device(const char *function, nvmlDevice_t device, const struct section **section);
void leave(void);
/* Faults of the device alone, for functions that look a device up. */
nvmlReturn_t device_fault(const char *function, nvmlDevice_t device);
/* Count a call; `uuid` is empty for functions without a device. */
void count_call(const char *function, const char *uuid);
/* Sleep without the lock: values found before must be looked up again. */
void sleep_unlocked_us(unsigned int microseconds);
/* The same with microsecond accuracy, for latencies. */
void sleep_exactly_us(unsigned int microseconds);
/* Reload the world if it has changed. The lock is held before and after. */
void refresh(void);

#define MACHINE_CALL()                                                                                               \
    do {                                                                                                             \
        nvmlReturn_t entered_ = enter_machine(__func__, true);                                                       \
        if (entered_ != NVML_SUCCESS) {                                                                              \
            leave();                                                                                                 \
            return entered_;                                                                                         \
        }                                                                                                            \
    } while (0)

#define DEVICE_CALL(device)                                                                                          \
    const struct section *gpu;                                                                                       \
    do {                                                                                                             \
        nvmlReturn_t entered_ = enter_device(__func__, device, &gpu);                                                \
        if (entered_ != NVML_SUCCESS) {                                                                              \
            leave();                                                                                                 \
            return entered_;                                                                                         \
        }                                                                                                            \
    } while (0)

#define ANSWER(code)                                                                                                 \
    do {                                                                                                             \
        nvmlReturn_t answer_ = (code);                                                                               \
        leave();                                                                                                     \
        return answer_;                                                                                              \
    } while (0)

#define REQUIRE(condition)                                                                                           \
    do {                                                                                                             \
        if (!(condition))                                                                                            \
            ANSWER(NVML_ERROR_INVALID_ARGUMENT);                                                                     \
    } while (0)

/* --- devices --------------------------------------------------------------------------------------------------- */
nvmlDevice_t device_for(const struct section *section);
bool is_device(nvmlDevice_t device);
bool is_initialized(void);
void increment_init_count(void);
bool decrement_init_count(void);
unsigned int attached_count(void);
nvmlDevice_t attached(unsigned int index);
bool attached_index(nvmlDevice_t device, unsigned int *index);

#endif
