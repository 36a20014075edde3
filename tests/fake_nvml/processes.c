/* Process lists and utilization by process. As in NVML, a buffer that is too small returns INSUFFICIENT_SIZE. */
#define _GNU_SOURCE
#include <string.h>
#include <time.h>

#include "world.h"

enum mode { COMPUTE = 0, GRAPHICS = 1, MPS = 2, ALL = 3 };

static bool in_mode(const struct process *process, enum mode mode)
{
    switch (mode) {
    case COMPUTE: return process->compute;
    case GRAPHICS: return process->graphics;
    case MPS: return process->mps;
    default: return true;
    }
}

/* In R535 before 535.98 the third version uses a larger structure than in all other drivers. */
static size_t third_version_size(void)
{
    return find(&world->machine, "wide_process_list") ? sizeof(nvmlProcessDetail_v1_t) : sizeof(nvmlProcessInfo_v2_t);
}

static nvmlReturn_t list(const struct section *gpu, enum mode mode, size_t size, unsigned int *count, void *infos)
{
    if (!count)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned int total = 0, room = *count;
    for (unsigned int i = 0; i < gpu->process_count; i++)
        total += in_mode(&gpu->processes[i], mode);
    *count = total;
    if (total == 0)
        return NVML_SUCCESS;
    if (room < total || !infos)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    char *out = infos;
    for (unsigned int i = 0; i < gpu->process_count; i++) {
        const struct process *process = &gpu->processes[i];
        if (!in_mode(process, mode))
            continue;
        nvmlProcessDetail_v1_t info;
        memset(&info, 0, sizeof info);
        info = (nvmlProcessDetail_v1_t){process->pid, process->used_memory, process->gpu_instance,
                                        process->compute_instance, process->protected_memory};
        memcpy(out, &info, size); /* each layout is a prefix of the next */
        out += size;
    }
    return NVML_SUCCESS;
}

#define PROCESS_LIST(function, mode, layout, size)                                                                   \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned int *count, layout *infos)                            \
    {                                                                                                                \
        DEVICE_CALL(device);                                                                                         \
        ANSWER(list(gpu, mode, size, count, infos));                                                                 \
    }

PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses, COMPUTE, nvmlProcessInfo_v1_t, sizeof(nvmlProcessInfo_v1_t))
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v2, COMPUTE, nvmlProcessInfo_v2_t, sizeof(nvmlProcessInfo_v2_t))
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v3, COMPUTE, nvmlProcessInfo_v2_t, third_version_size())
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses, GRAPHICS, nvmlProcessInfo_v1_t, sizeof(nvmlProcessInfo_v1_t))
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, GRAPHICS, nvmlProcessInfo_v2_t, sizeof(nvmlProcessInfo_v2_t))
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, GRAPHICS, nvmlProcessInfo_v2_t, third_version_size())
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses, MPS, nvmlProcessInfo_v1_t, sizeof(nvmlProcessInfo_v1_t))
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, MPS, nvmlProcessInfo_v2_t, sizeof(nvmlProcessInfo_v2_t))
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, MPS, nvmlProcessInfo_v2_t, third_version_size())

EXPORT nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_v1_t *details)
{
    DEVICE_CALL(device);
    REQUIRE(details);
    if (details->version != STRUCT_VERSION(nvmlProcessDetailList_v1_t, 1))
        ANSWER(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    REQUIRE(details->mode <= MPS);
    ANSWER(list(gpu, (enum mode)details->mode, sizeof(nvmlProcessDetail_v1_t), &details->numProcArrayEntries,
                details->procArray));
}

EXPORT nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
    MACHINE_CALL();
    REQUIRE(name && length > 0);
    for (unsigned int i = 0; i < world->gpu_count; i++)
        for (unsigned int j = 0; j < world->gpus[i].process_count; j++) {
            const struct process *process = &world->gpus[i].processes[j];
            if (process->pid != pid || !process->name)
                continue;
            strncpy(name, process->name, length - 1); /* the driver truncates long names */
            name[length - 1] = '\0';
            ANSWER(NVML_SUCCESS);
        }
    ANSWER(NVML_ERROR_NOT_FOUND);
}

/* --- utilization by process -------------------------------------------------------------------------------------- */

/* The driver samples a few times a second and returns only samples newer than the caller's timestamp. */
static unsigned long long sample_time(const struct section *gpu)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    unsigned long long microseconds = (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000;
    unsigned int period = 166667;
    find_uint(gpu, "process_sampling_period_us", &period);
    return period ? microseconds / period * period : microseconds;
}

static nvmlReturn_t idle_return(const struct section *gpu)
{
    unsigned int code;
    return find_uint(gpu, "process_utilization_idle_return", &code) ? (nvmlReturn_t)code : NVML_ERROR_NOT_FOUND;
}

/* Return the number of samples in `count`; INSUFFICIENT_SIZE if they do not fit. */
static nvmlReturn_t count_new_samples(const struct section *gpu, unsigned long long last_seen, unsigned int *count,
                                    bool has_buffer)
{
    if (!count)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned int supported = 1, total = 0, room = *count;
    if (find_uint(gpu, "process_utilization_supported", &supported) && !supported)
        return NVML_ERROR_NOT_SUPPORTED;
    for (unsigned int i = 0; i < gpu->process_count; i++)
        total += gpu->processes[i].has_utilization;
    *count = total;
    if (total == 0)
        return idle_return(gpu);
    if (!has_buffer || room < total)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    if (sample_time(gpu) <= last_seen) {
        *count = 0;
        return NVML_ERROR_NOT_FOUND;
    }
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples,
                                                    unsigned int *count, unsigned long long last_seen)
{
    DEVICE_CALL(device);
    nvmlReturn_t state = count_new_samples(gpu, last_seen, count, samples != NULL);
    unsigned long long time = sample_time(gpu);
    for (unsigned int i = 0; state == NVML_SUCCESS && samples && i < gpu->process_count; i++) {
        const struct process *p = &gpu->processes[i];
        if (p->has_utilization)
            *samples++ = (nvmlProcessUtilizationSample_t){p->pid, time, p->sm, p->mem, p->enc, p->dec};
    }
    ANSWER(state);
}

EXPORT nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_v1_t *info)
{
    DEVICE_CALL(device);
    REQUIRE(info);
    if (info->version != STRUCT_VERSION(nvmlProcessesUtilizationInfo_v1_t, 1))
        ANSWER(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    nvmlProcessUtilizationInfo_v1_t *samples = info->procUtilArray;
    nvmlReturn_t state =
        count_new_samples(gpu, info->lastSeenTimeStamp, &info->processSamplesCount, samples != NULL);
    unsigned long long time = sample_time(gpu);
    for (unsigned int i = 0; state == NVML_SUCCESS && samples && i < gpu->process_count; i++) {
        const struct process *p = &gpu->processes[i];
        if (p->has_utilization)
            *samples++ =
                (nvmlProcessUtilizationInfo_v1_t){time, p->pid, p->sm, p->mem, p->enc, p->dec, p->jpg, p->ofa};
    }
    ANSWER(state);
}

/* --- encoder and frame-buffer capture sessions ------------------------------------------------------------------- */

EXPORT nvmlReturn_t nvmlDeviceGetEncoderStats(nvmlDevice_t device, unsigned int *sessions, unsigned int *fps,
                                              unsigned int *latency)
{
    DEVICE_CALL(device);
    REQUIRE(sessions && fps && latency);
    bool found = find_uint(gpu, "encoder_stats.sessions", sessions) && find_uint(gpu, "encoder_stats.fps", fps) &&
                 find_uint(gpu, "encoder_stats.latency_us", latency);
    ANSWER(found ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}

EXPORT nvmlReturn_t nvmlDeviceGetFBCStats(nvmlDevice_t device, nvmlFBCStats_t *stats)
{
    DEVICE_CALL(device);
    REQUIRE(stats);
    bool found = find_uint(gpu, "fbc_stats.sessions", &stats->sessionsCount) &&
                 find_uint(gpu, "fbc_stats.fps", &stats->averageFPS) &&
                 find_uint(gpu, "fbc_stats.latency_us", &stats->averageLatency);
    ANSWER(found ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}

static unsigned int session_field(const struct section *gpu, const char *list_key, unsigned int index,
                                  const char *name)
{
    const struct value *value = findf(gpu, "%s.%u.%s", list_key, index, name);
    return value ? (unsigned int)value->u : 0;
}

/* Unlike the process lists, a query without a buffer answers SUCCESS and the count. */
static nvmlReturn_t session_count(const struct section *gpu, const char *stats_key, const char *list_key,
                                  unsigned int *count, bool has_buffer)
{
    if (!count)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!find(gpu, stats_key))
        return NVML_ERROR_NOT_SUPPORTED;
    unsigned int total = 0, room = *count;
    while (findf(gpu, "%s.%u.pid", list_key, total))
        total++;
    *count = total;
    return has_buffer && room < total ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetEncoderSessions(nvmlDevice_t device, unsigned int *count,
                                                 nvmlEncoderSession_t *sessions)
{
    static const char *const key = "encoder_sessions";
    DEVICE_CALL(device);
    nvmlReturn_t state = session_count(gpu, "encoder_stats.sessions", key, count, sessions != NULL);
    for (unsigned int i = 0; state == NVML_SUCCESS && sessions && i < *count; i++)
        sessions[i] = (nvmlEncoderSession_t){
            .sessionId = session_field(gpu, key, i, "session_id"),
            .pid = session_field(gpu, key, i, "pid"),
            .codecType = session_field(gpu, key, i, "codec"),
            .hResolution = session_field(gpu, key, i, "width"),
            .vResolution = session_field(gpu, key, i, "height"),
            .averageFps = session_field(gpu, key, i, "fps"),
            .encodeLatency = session_field(gpu, key, i, "latency_us"),
        };
    ANSWER(state);
}

EXPORT nvmlReturn_t nvmlDeviceGetFBCSessions(nvmlDevice_t device, unsigned int *count, nvmlFBCSession_t *sessions)
{
    static const char *const key = "fbc_sessions";
    DEVICE_CALL(device);
    nvmlReturn_t state = session_count(gpu, "fbc_stats.sessions", key, count, sessions != NULL);
    for (unsigned int i = 0; state == NVML_SUCCESS && sessions && i < *count; i++)
        sessions[i] = (nvmlFBCSession_t){
            .sessionId = session_field(gpu, key, i, "session_id"),
            .pid = session_field(gpu, key, i, "pid"),
            .hResolution = session_field(gpu, key, i, "width"),
            .vResolution = session_field(gpu, key, i, "height"),
            .averageFPS = session_field(gpu, key, i, "fps"),
            .averageLatency = session_field(gpu, key, i, "latency_us"),
        };
    ANSWER(state);
}
