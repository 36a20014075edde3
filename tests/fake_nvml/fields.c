/* nvmlDeviceGetFieldValues and NVLink. Every field has its own return code. */
#define _GNU_SOURCE
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "world.h"

#define UINT NVML_VALUE_TYPE_UNSIGNED_INT
#define ULL NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
#define INT NVML_VALUE_TYPE_SIGNED_INT
#define MAX_FIELD 512
#define MAX_LINKS 36

struct plain_field {
    const char *key;
    unsigned int type;
};

/* Fields with one value per device, independent of the scope. */
static const struct plain_field plain_fields[MAX_FIELD] = {
    [1] = {"ecc.current", UINT},
    [2] = {"ecc.pending", UINT},
    [3] = {"ecc.corrected_volatile", ULL},
    [4] = {"ecc.uncorrected_volatile", ULL},
    [5] = {"ecc.corrected_aggregate", ULL},
    [6] = {"ecc.uncorrected_aggregate", ULL},
    [7] = {"ecc.l1_cache.corrected_volatile", ULL},
    [8] = {"ecc.l1_cache.uncorrected_volatile", ULL},
    [9] = {"ecc.l2_cache.corrected_volatile", ULL},
    [10] = {"ecc.l2_cache.uncorrected_volatile", ULL},
    [11] = {"ecc.dram.corrected_volatile", ULL},
    [12] = {"ecc.dram.uncorrected_volatile", ULL},
    [13] = {"ecc.register_file.corrected_volatile", ULL},
    [14] = {"ecc.register_file.uncorrected_volatile", ULL},
    [15] = {"ecc.texture_memory.corrected_volatile", ULL},
    [16] = {"ecc.texture_memory.uncorrected_volatile", ULL},
    [17] = {"ecc.cbu.uncorrected_volatile", ULL},
    [18] = {"ecc.l1_cache.corrected_aggregate", ULL},
    [19] = {"ecc.l1_cache.uncorrected_aggregate", ULL},
    [20] = {"ecc.l2_cache.corrected_aggregate", ULL},
    [21] = {"ecc.l2_cache.uncorrected_aggregate", ULL},
    [22] = {"ecc.dram.corrected_aggregate", ULL},
    [23] = {"ecc.dram.uncorrected_aggregate", ULL},
    [24] = {"ecc.register_file.corrected_aggregate", ULL},
    [25] = {"ecc.register_file.uncorrected_aggregate", ULL},
    [26] = {"ecc.texture_memory.corrected_aggregate", ULL},
    [27] = {"ecc.texture_memory.uncorrected_aggregate", ULL},
    [28] = {"ecc.cbu.uncorrected_aggregate", ULL},
    [31] = {"retired_pages.pending", UINT},
    [74] = {"violations.power", ULL},
    [75] = {"violations.thermal", ULL},
    [76] = {"violations.sync_boost", ULL},
    [77] = {"violations.board_limit", ULL},
    [78] = {"violations.low_utilization", ULL},
    [79] = {"violations.reliability", ULL},
    [80] = {"violations.total_app_clocks", ULL},
    [81] = {"violations.total_base_clocks", ULL},
    [82] = {"memory_temperature", UINT},
    [83] = {"energy_mj", ULL},
    [90] = {"nvlink.speed_mbps", UINT},
    [94] = {"pcie.replay_counter", UINT},
    [95] = {"pcie.replay_rollover_counter", UINT},
    [142] = {"remapped_rows.correctable", UINT},
    [143] = {"remapped_rows.uncorrectable", UINT},
    [144] = {"remapped_rows.pending", UINT},
    [145] = {"remapped_rows.failure", UINT},
    [169] = {"pcie.l0_to_recovery_counter", UINT},
    [173] = {"pcie.correctable_errors", UINT},
    [174] = {"pcie.naks_received", UINT},
    [175] = {"pcie.receiver_errors", UINT},
    [176] = {"pcie.bad_tlp", UINT},
    [177] = {"pcie.naks_sent", UINT},
    [178] = {"pcie.bad_dllp", UINT},
    [179] = {"pcie.non_fatal_errors", UINT},
    [180] = {"pcie.fatal_errors", UINT},
    [181] = {"pcie.unsupported_requests", UINT},
    [182] = {"pcie.lcrc_errors", UINT},
    [183] = {"pcie.lane_errors", UINT},
    [191] = {"energy_mj", ULL},
    [193] = {"temperature_limits.shutdown", INT},
    [194] = {"temperature_limits.slowdown", INT},
    [195] = {"temperature_limits.mem_max", INT},
    [196] = {"temperature_limits.gpu_max", INT},
    [197] = {"pcie.tx_bytes", ULL},
    [198] = {"pcie.rx_bytes", ULL},
    [230] = {"recovery_action", UINT},
    [269] = {"violations.sw_thermal_slowdown", ULL},
    [270] = {"violations.hw_thermal_slowdown", ULL},
    [271] = {"violations.hw_power_brake", ULL},
};

/* Power fields: the scope selects the GPU, its module, or its memory. */
static const char *const power_fields[] = {"average",   "instant",       "min_limit",       "max_limit",
                                           "default_limit", "enforced_limit", NULL /* energy */, "limit"};
static const char *const power_scopes[] = {"power", "module_power", "memory_power"};
#define FIRST_POWER_FIELD 185

/* Fields of one link: links 0-5 from `first` on, links 6-11 from `later` on, the sum of all links in `total`. */
static const struct link_run {
    unsigned int first, later, total;
    const char *name;
    unsigned int type;
} link_runs[] = {
    {32, 96, 38, "crc_flit_errors", ULL},      {39, 102, 45, "crc_data_errors", ULL},
    {46, 108, 52, "replay_errors", ULL},       {53, 114, 59, "recovery_errors", ULL},
    {84, 132, 0, "speed_mbps", UINT},          {148, 154, 160, "ecc_data_errors", ULL},
};

/* Fields of the link given by the scope; scope UINT_MAX is the sum of all links. */
static const struct scoped_link_field {
    unsigned int id;
    const char *name;
    unsigned int divisor, type;
} scoped_link_fields[] = {
    {138, "tx_bytes", 1024, ULL},     {139, "rx_bytes", 1024, ULL},     {140, "raw_tx_bytes", 1024, ULL},
    {141, "raw_rx_bytes", 1024, ULL}, {161, "replay_errors", 1, ULL},   {162, "recovery_errors", 1, ULL},
    {163, "crc_flit_errors", 1, ULL}, {164, "speed_mbps", 1, UINT},     {165, "active", 1, UINT},
    {166, "version", 1, UINT},        {202, "tx_bytes", 1, ULL},        {204, "rx_bytes", 1, ULL},
};

static bool link_value(const struct section *gpu, unsigned int link, const char *name, unsigned long long *out)
{
    for (unsigned int k = 0; k < LINK_COUNTERS; k++)
        if (strcmp(name, link_counters[k]) == 0) {
            *out = counter_now(&gpu->links[link][k]);
            return gpu->links[link][k].known;
        }
    char key[64];
    snprintf(key, sizeof key, "nvlink.links.%u.%s", link, name);
    return find_counter(gpu, key, out);
}

/* The value of one link; for link UINT_MAX, the sum of the links that have one. */
static nvmlReturn_t link_or_sum(const struct section *gpu, unsigned int link, const char *name,
                                unsigned long long *out)
{
    unsigned int count = gpu->link_count;
    unsigned long long one;
    bool any = false;
    if (count == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (link != UINT_MAX)
        return link >= count                             ? NVML_ERROR_INVALID_ARGUMENT
               : link_value(gpu, link, name, out) ? NVML_SUCCESS
                                                         : NVML_ERROR_NOT_SUPPORTED;
    *out = 0;
    for (unsigned int i = 0; i < count; i++)
        if (link_value(gpu, i, name, &one)) {
            *out += one;
            any = true;
        }
    return any ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t lookup(const struct section *gpu, unsigned int id, unsigned int scope, unsigned int *type,
                           unsigned long long *out)
{
    unsigned int known = MAX_FIELD;
    find_uint(&world->machine, "field_max", &known); /* limit of an older library */
    if (id >= known || id >= MAX_FIELD || id == 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    *type = plain_fields[id].type;
    if (plain_fields[id].key)
        return find_counter(gpu, plain_fields[id].key, out) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    *type = UINT;
    unsigned int power = id - FIRST_POWER_FIELD;
    if (power < sizeof power_fields / sizeof *power_fields) {
        if (scope >= sizeof power_scopes / sizeof *power_scopes)
            return NVML_ERROR_INVALID_ARGUMENT;
        char key[64];
        snprintf(key, sizeof key, "%s.%s", power_scopes[scope], power_fields[power]);
        return find_counter(gpu, key, out) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    }
    if (id == 29 || id == 30) { /* retired pages, by cause */
        if (!find(gpu, "retired_pages.pending"))
            return NVML_ERROR_NOT_SUPPORTED;
        for (*out = 0; findf(gpu, "retired_pages.%s.%llu", id == 29 ? "single_bit" : "double_bit", *out); ++*out)
            ;
        return NVML_SUCCESS;
    }
    if (id == 91) { /* NVML_FI_DEV_NVLINK_LINK_COUNT */
        *out = gpu->link_count;
        return NVML_SUCCESS;
    }
    for (size_t i = 0; i < sizeof link_runs / sizeof *link_runs; i++) {
        const struct link_run *run = &link_runs[i];
        bool low = id - run->first < 6, high = id - run->later < 6, total = run->total && id == run->total;
        if (low || high || total) {
            *type = run->type;
            unsigned int link = total ? UINT_MAX : low ? id - run->first : id - run->later + 6;
            return link_or_sum(gpu, link, run->name, out);
        }
    }
    for (size_t i = 0; i < sizeof scoped_link_fields / sizeof *scoped_link_fields; i++) {
        const struct scoped_link_field *field = &scoped_link_fields[i];
        if (field->id == id) {
            *type = field->type;
            nvmlReturn_t found = link_or_sum(gpu, scope, field->name, out);
            *out /= field->divisor;
            return found;
        }
    }
    return NVML_ERROR_NOT_SUPPORTED;
}

static void fill(const struct section *gpu, nvmlFieldValue_t *field)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    field->timestamp = now.tv_sec * 1000000LL + now.tv_nsec / 1000;
    field->latencyUsec = 0;
    field->value.ullVal = 0;
    field->valueType = UINT;
    /* A world can set the result of a field directly. */
    const struct value *code = findf(gpu, "field_returns.%u", field->fieldId);
    if (code && code->u) {
        field->nvmlReturn = (nvmlReturn_t)code->u;
        return;
    }
    const struct value *fixed = findf(gpu, "field_values.%u", field->fieldId);
    unsigned long long value = 0;
    field->nvmlReturn = lookup(gpu, field->fieldId, field->scopeId, &field->valueType, &value);
    if (fixed) {
        field->nvmlReturn = NVML_SUCCESS;
        value = fixed->u;
    }
    if (field->nvmlReturn != NVML_SUCCESS)
        return;
    if (field->valueType == ULL)
        field->value.ullVal = value;
    else
        field->value.uiVal = (unsigned int)value;
}

static unsigned int latency_of(const struct section *gpu, const nvmlFieldValue_t *field)
{
    const struct value *own = findf(gpu, "field_latency_us.%u", field->fieldId);
    if (!own)
        own = findf(&world->machine, "field_latency_us.%u", field->fieldId);
    return own ? (unsigned int)own->u : 0;
}

EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    DEVICE_CALL(device);
    REQUIRE(values && count > 0);
    unsigned int latency = 0;
    if (find(&world->machine, "has_field_latencies"))
        for (int i = 0; i < count; i++)
            latency += latency_of(gpu, &values[i]);
    if (latency) {
        sleep_exactly_us(latency);
        gpu = device->section;
        if (!gpu)
            ANSWER(NVML_ERROR_GPU_IS_LOST);
    }
    for (int i = 0; i < count; i++)
        fill(gpu, &values[i]);
    ANSWER(NVML_SUCCESS);
}

/* --- NVLink ------------------------------------------------------------------------------------------------------ */

static nvmlReturn_t link_uint(const struct section *gpu, unsigned int link, const char *name, unsigned int *out)
{
    unsigned long long value;
    if (!out || link >= MAX_LINKS)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t found = link_or_sum(gpu, link, name, &value);
    if (found == NVML_SUCCESS)
        *out = (unsigned int)value;
    return found;
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, unsigned int *active)
{
    DEVICE_CALL(device);
    ANSWER(link_uint(gpu, link, "active", active));
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned int link, unsigned int *version)
{
    DEVICE_CALL(device);
    ANSWER(link_uint(gpu, link, "version", version));
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned int link, unsigned int *type)
{
    DEVICE_CALL(device);
    ANSWER(link_uint(gpu, link, "remote_type", type));
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned int link, unsigned int counter,
                                                    unsigned long long *count)
{
    static const char *const counters[] = {"replay_errors", "recovery_errors", "crc_flit_errors", "crc_data_errors",
                                           "ecc_data_errors"};
    DEVICE_CALL(device);
    REQUIRE(count && link < MAX_LINKS && counter < sizeof counters / sizeof *counters);
    ANSWER(link_or_sum(gpu, link, counters[counter], count));
}
