/* GPM (performance metrics between two samples) and events. */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "world.h"

static long long now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

/* --- GPM --------------------------------------------------------------------------------------------------------- */

/* Refresh interval of the hardware counters: two samples within it have the same counters. */
#define GPM_REFRESH_US 100000

struct nvmlGpmSample_st {
    nvmlDevice_t device; /* NULL before the first sample */
    long long time;
};

static bool has_gpm(const struct section *gpu)
{
    unsigned int supported = 0;
    return find_uint(gpu, "gpm.supported", &supported) && supported;
}

EXPORT nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support)
{
    DEVICE_CALL(device);
    REQUIRE(support);
    if (support->version != 1)
        ANSWER(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    support->isSupportedDevice = has_gpm(gpu);
    ANSWER(NVML_SUCCESS);
}

EXPORT nvmlReturn_t nvmlGpmQueryIfStreamingEnabled(nvmlDevice_t device, unsigned int *state)
{
    DEVICE_CALL(device);
    REQUIRE(state);
    if (!has_gpm(gpu))
        ANSWER(NVML_ERROR_NOT_SUPPORTED);
    if (!find_uint(gpu, "gpm.streaming", state))
        *state = 0;
    ANSWER(NVML_SUCCESS);
}

EXPORT nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample)
{
    MACHINE_CALL();
    REQUIRE(sample);
    *sample = calloc(1, sizeof **sample);
    ANSWER(*sample ? NVML_SUCCESS : NVML_ERROR_MEMORY);
}

EXPORT nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample)
{
    MACHINE_CALL();
    REQUIRE(sample);
    free(sample);
    ANSWER(NVML_SUCCESS);
}

EXPORT nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample)
{
    DEVICE_CALL(device);
    REQUIRE(sample);
    if (!has_gpm(gpu))
        ANSWER(NVML_ERROR_NOT_SUPPORTED);
    *sample = (struct nvmlGpmSample_st){device, now_us()};
    ANSWER(NVML_SUCCESS);
}

EXPORT nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned int gpu_instance, nvmlGpmSample_t sample)
{
    DEVICE_CALL(device);
    REQUIRE(sample);
    for (unsigned int i = 0; i < gpu->instance_count; i++) {
        unsigned int id;
        if (!find_uint(&gpu->instances[i], "gpu_instance_id", &id) || id != gpu_instance)
            continue;
        if (!has_gpm(&gpu->instances[i]))
            ANSWER(NVML_ERROR_NOT_SUPPORTED);
        *sample = (struct nvmlGpmSample_st){device_for(&gpu->instances[i]), now_us()};
        ANSWER(NVML_SUCCESS);
    }
    ANSWER(NVML_ERROR_INVALID_ARGUMENT);
}

static void name_metric(nvmlGpmMetric_t *metric)
{
    static const struct {
        unsigned int id;
        const char *short_name, *long_name, *unit;
    } names[] = {
        {1, "GRACT", "Graphics or compute engine active", "%"}, {2, "SMACT", "SM active", "%"},
        {3, "SMOCC", "SM occupancy", "%"},                      {5, "TENSO", "Tensor pipes active", "%"},
        {10, "DRAMA", "DRAM active", "%"},                      {20, "PCITX", "PCIe sent", "MiB/s"},
        {21, "PCIRX", "PCIe received", "MiB/s"},                {60, "NVLRX", "NVLink received", "MiB/s"},
        {61, "NVLTX", "NVLink sent", "MiB/s"},
    };
    metric->metricInfo.shortName = metric->metricInfo.longName = metric->metricInfo.unit = "";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].id == metric->metricId) {
            metric->metricInfo.shortName = names[i].short_name;
            metric->metricInfo.longName = names[i].long_name;
            metric->metricInfo.unit = names[i].unit;
        }
}

EXPORT nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *request)
{
    MACHINE_CALL();
    REQUIRE(request);
    if (request->version != 1)
        ANSWER(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    const struct nvmlGpmSample_st *first = request->sample1, *second = request->sample2;
    REQUIRE(first && second && first->device && first->device == second->device);
    nvmlReturn_t fault = device_fault(__func__, second->device);
    if (fault != NVML_SUCCESS)
        ANSWER(fault);
    bool same_counters = second->time - first->time < GPM_REFRESH_US;
    for (unsigned int i = 0; i < request->numMetrics; i++) {
        nvmlGpmMetric_t *metric = &request->metrics[i];
        const struct value *value = findf(second->device->section, "gpm.metrics.%u", metric->metricId);
        metric->nvmlReturn = value ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
        /* 0/0: no cycles between the samples. */
        metric->value = !value ? 0.0 : same_counters ? (double)NAN : value->d;
        name_metric(metric);
    }
    ANSWER(NVML_SUCCESS);
}

/* --- events ------------------------------------------------------------------------------------------------------ */

#define MAX_REGISTRATIONS 256
#define EVENT_POLL_US 20000

struct nvmlEventSet_st {
    pthread_mutex_t lock;
    unsigned long long seen; /* id of the last event that existed at creation or was returned */
    unsigned int count;
    struct {
        nvmlDevice_t device;
        unsigned long long types;
    } registered[MAX_REGISTRATIONS];
};

EXPORT nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    MACHINE_CALL();
    REQUIRE(set);
    *set = calloc(1, sizeof **set);
    if (!*set)
        ANSWER(NVML_ERROR_MEMORY);
    pthread_mutex_init(&(*set)->lock, NULL);
    /* Earlier events are not returned, unless the world has `events_from_start`. */
    unsigned int from_start = 0;
    find_uint(&world->machine, "events_from_start", &from_start);
    for (unsigned int i = 0; !from_start && i < world->event_count; i++)
        if (world->events[i].id > (*set)->seen)
            (*set)->seen = world->events[i].id;
    ANSWER(NVML_SUCCESS);
}

EXPORT nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    MACHINE_CALL();
    REQUIRE(set);
    free(set);
    ANSWER(NVML_SUCCESS);
}

EXPORT nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types)
{
    DEVICE_CALL(device);
    REQUIRE(types);
    ANSWER(find_counter(gpu, "event_types", types) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}

EXPORT nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set)
{
    DEVICE_CALL(device);
    REQUIRE(set);
    unsigned long long supported;
    if (!find_counter(gpu, "event_types", &supported) || (types & ~supported))
        ANSWER(NVML_ERROR_NOT_SUPPORTED);
    pthread_mutex_lock(&set->lock);
    bool room = set->count < MAX_REGISTRATIONS;
    if (room) {
        set->registered[set->count].device = device;
        set->registered[set->count++].types = types;
    }
    pthread_mutex_unlock(&set->lock);
    ANSWER(room ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_RESOURCES);
}

static bool wants(const struct nvmlEventSet_st *set, const struct event *event, nvmlDevice_t *device)
{
    for (unsigned int i = 0; i < set->count; i++) {
        const struct section *section = set->registered[i].device->section;
        const char *uuid = section ? section->uuid : "";
        bool own = strcmp(uuid, event->uuid) == 0;
        for (unsigned int j = 0; section && j < section->instance_count; j++)
            own = own || strcmp(section->instances[j].uuid, event->uuid) == 0;
        if (own && (set->registered[i].types & event->type)) {
            *device = set->registered[i].device;
            return true;
        }
    }
    return false;
}

/* Return the next event that the set is registered for: SUCCESS, or TIMEOUT if there is none. */
static nvmlReturn_t take(struct nvmlEventSet_st *set, nvmlEventData_v2_t *out)
{
    nvmlReturn_t taken = NVML_ERROR_TIMEOUT;
    pthread_mutex_lock(&set->lock);
    for (unsigned int i = 0; i < world->event_count && taken != NVML_SUCCESS; i++) {
        const struct event *event = &world->events[i];
        nvmlDevice_t device;
        if (event->id <= set->seen)
            continue;
        set->seen = event->id;
        if (wants(set, event, &device)) {
            *out = (nvmlEventData_v2_t){device, event->type, event->data, event->gpu_instance,
                                        event->compute_instance};
            taken = NVML_SUCCESS;
        }
    }
    for (unsigned int i = 0; i < set->count && taken == NVML_ERROR_TIMEOUT; i++)
        if (!set->registered[i].device->section)
            taken = NVML_ERROR_GPU_IS_LOST;
    pthread_mutex_unlock(&set->lock);
    return taken;
}

static nvmlReturn_t wait_for_event(nvmlEventSet_t set, nvmlEventData_v2_t *out, unsigned int timeout_ms)
{
    long long end = now_us() + timeout_ms * 1000LL;
    nvmlReturn_t taken;
    while ((taken = take(set, out)) == NVML_ERROR_TIMEOUT && now_us() < end) {
        long long left = end - now_us();
        sleep_unlocked_us(left < EVENT_POLL_US ? (unsigned int)(left > 0 ? left : 0) : EVENT_POLL_US);
        refresh();
    }
    return taken;
}

EXPORT nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_v1_t *data, unsigned int timeout_ms)
{
    MACHINE_CALL();
    REQUIRE(set && data);
    nvmlEventData_v2_t event;
    nvmlReturn_t taken = wait_for_event(set, &event, timeout_ms);
    if (taken == NVML_SUCCESS)
        *data = (nvmlEventData_v1_t){event.device, event.eventType, event.eventData};
    ANSWER(taken);
}

EXPORT nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_v2_t *data, unsigned int timeout_ms)
{
    MACHINE_CALL();
    REQUIRE(set && data);
    ANSWER(wait_for_event(set, data, timeout_ms));
}
