/* A fake libnvidia-ml.so.1: initialization, enumeration, and functions that return one value of a device.
 * The values are in the world file; a missing key is NOT_SUPPORTED, as on a GPU without the feature. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "world.h"

/* --- functions that return the value of one or two keys -------------------------------------------------------- */

#define GET_UINT(function, key)                                                                                      \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned int *out)                                             \
    {                                                                                                                \
        DEVICE_CALL(device);                                                                                         \
        REQUIRE(out);                                                                                                \
        ANSWER(find_uint(gpu, key, out) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);                                  \
    }

#define GET_TWO_UINTS(function, first_key, second_key)                                                               \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned int *first, unsigned int *second)                     \
    {                                                                                                                \
        DEVICE_CALL(device);                                                                                         \
        REQUIRE(first &&second);                                                                                     \
        bool found = find_uint(gpu, first_key, first) && find_uint(gpu, second_key, second);                         \
        ANSWER(found ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);                                                     \
    }

#define GET_ULL(function, key)                                                                                       \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned long long *out)                                       \
    {                                                                                                                \
        DEVICE_CALL(device);                                                                                         \
        REQUIRE(out);                                                                                                \
        ANSWER(find_counter(gpu, key, out) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);                               \
    }

#define GET_TEXT(function, key)                                                                                      \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, char *buffer, unsigned int length)                             \
    {                                                                                                                \
        DEVICE_CALL(device);                                                                                         \
        ANSWER(copy_text(find(gpu, key), buffer, length));                                                           \
    }

/* One of several values, selected by an argument: a clock domain, a threshold. */
#define GET_INDEXED(function, names)                                                                                 \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned int index, unsigned int *out)                         \
    {                                                                                                                \
        DEVICE_CALL(device);                                                                                         \
        REQUIRE(out &&index < sizeof names / sizeof *names);                                                         \
        ANSWER(find_uint(gpu, names[index], out) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);                         \
    }

/* --- initialization and shutdown --------------------------------------------------------------------------------- */

static nvmlReturn_t initialize(void)
{
    /* A fault under this name applies to all three initialization functions. */
    nvmlReturn_t entered = enter_machine("nvmlInit_v2", false);
    if (entered == NVML_SUCCESS)
        increment_init_count();
    leave();
    return entered;
}

EXPORT nvmlReturn_t nvmlInit(void)
{
    return initialize();
}

EXPORT nvmlReturn_t nvmlInit_v2(void)
{
    return initialize();
}

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    return initialize();
}

EXPORT nvmlReturn_t nvmlShutdown(void)
{
    MACHINE_CALL();
    ANSWER(decrement_init_count() ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED);
}

EXPORT const char *nvmlErrorString(nvmlReturn_t result)
{
    switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_ALREADY_INITIALIZED: return "Already Initialized";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_INSUFFICIENT_POWER: return "Insufficient External Power";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_IRQ_ISSUE: return "Interrupt Request Issue";
    case NVML_ERROR_LIBRARY_NOT_FOUND: return "NVML Shared Library Not Found";
    case NVML_ERROR_FUNCTION_NOT_FOUND: return "Function Not Found";
    case NVML_ERROR_CORRUPTED_INFOROM: return "Corrupted infoROM";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED: return "GPU requires reset";
    case NVML_ERROR_OPERATING_SYSTEM: return "The operating system has blocked the request.";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case NVML_ERROR_IN_USE: return "In use by another client";
    case NVML_ERROR_MEMORY: return "Insufficient Memory";
    case NVML_ERROR_NO_DATA: return "No data";
    case NVML_ERROR_VGPU_ECC_NOT_SUPPORTED: return "Not supported on vGPU with ECC";
    case NVML_ERROR_INSUFFICIENT_RESOURCES: return "Insufficient resources";
    case NVML_ERROR_FREQ_NOT_SUPPORTED: return "Frequency not supported";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
    case NVML_ERROR_DEPRECATED: return "Deprecated function";
    case NVML_ERROR_NOT_READY: return "Not ready";
    case NVML_ERROR_GPU_NOT_FOUND: return "GPU not found";
    case NVML_ERROR_INVALID_STATE: return "Invalid state";
    case NVML_ERROR_RESET_TYPE_NOT_SUPPORTED: return "Reset type not supported";
    default: return "Unknown Error";
    }
}

/* --- the machine ------------------------------------------------------------------------------------------------- */

#define SYSTEM_TEXT(function, key)                                                                                   \
    EXPORT nvmlReturn_t function(char *buffer, unsigned int length)                                                  \
    {                                                                                                                \
        MACHINE_CALL();                                                                                              \
        ANSWER(copy_text(find(&world->machine, key), buffer, length));                                               \
    }

SYSTEM_TEXT(nvmlSystemGetDriverVersion, "driver_version")
SYSTEM_TEXT(nvmlSystemGetNVMLVersion, "nvml_version")

#define SYSTEM_CUDA(function)                                                                                        \
    EXPORT nvmlReturn_t function(int *out)                                                                           \
    {                                                                                                                \
        MACHINE_CALL();                                                                                              \
        REQUIRE(out);                                                                                                \
        ANSWER(find_uint(&world->machine, "cuda_driver_version", (unsigned int *)out) ? NVML_SUCCESS                 \
                                                                                      : NVML_ERROR_NOT_SUPPORTED);   \
    }

SYSTEM_CUDA(nvmlSystemGetCudaDriverVersion)
SYSTEM_CUDA(nvmlSystemGetCudaDriverVersion_v2)

EXPORT nvmlReturn_t nvmlUnitGetCount(unsigned int *count)
{
    MACHINE_CALL();
    REQUIRE(count);
    *count = 0;
    ANSWER(NVML_SUCCESS);
}

/* --- enumeration ------------------------------------------------------------------------------------------------- */

static nvmlReturn_t count_devices(unsigned int *count)
{
    if (!count)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = attached_count();
    return NVML_SUCCESS;
}

static nvmlReturn_t by_index(const char *function, unsigned int index, nvmlDevice_t *device)
{
    if (!device || index >= attached_count())
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t fault = device_fault(function, attached(index));
    if (fault == NVML_SUCCESS)
        *device = attached(index);
    return fault;
}

static nvmlReturn_t hand_out(const char *function, const struct section *section, nvmlDevice_t *device)
{
    nvmlDevice_t found = device_for(section);
    nvmlReturn_t fault = device_fault(function, found);
    if (fault == NVML_SUCCESS)
        *device = found;
    return fault;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount(unsigned int *count)
{
    MACHINE_CALL();
    ANSWER(count_devices(count));
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    MACHINE_CALL();
    ANSWER(count_devices(count));
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    MACHINE_CALL();
    ANSWER(by_index(__func__, index, device));
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    MACHINE_CALL();
    ANSWER(by_index(__func__, index, device));
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    MACHINE_CALL();
    REQUIRE(uuid && device);
    for (unsigned int i = 0; i < attached_count(); i++) {
        const struct section *section = attached(i)->section;
        if (strcmp(attached(i)->uuid, uuid) == 0)
            ANSWER(by_index(__func__, i, device));
        for (unsigned int j = 0; section && j < section->instance_count; j++)
            if (strcmp(section->instances[j].uuid, uuid) == 0)
                ANSWER(hand_out(__func__, &section->instances[j], device));
    }
    ANSWER(NVML_ERROR_NOT_FOUND);
}

static bool parse_bus_id(const char *text, unsigned int *domain, unsigned int *bus, unsigned int *slot)
{
    unsigned int function;
    if (sscanf(text, "%x:%x:%x.%x", domain, bus, slot, &function) == 4)
        return true;
    *domain = 0;
    return sscanf(text, "%x:%x.%x", bus, slot, &function) == 3;
}

static nvmlReturn_t by_bus_id(const char *function, const char *bus_id, nvmlDevice_t *device)
{
    unsigned int domain, bus, slot, domain2, bus2, slot2;
    if (!bus_id || !device || !parse_bus_id(bus_id, &domain, &bus, &slot))
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned int i = 0; i < attached_count(); i++) {
        const struct section *section = attached(i)->section;
        const struct value *own = section ? find(section, "pci.bus_id") : NULL;
        if (own && parse_bus_id(own->text, &domain2, &bus2, &slot2) && domain == domain2 && bus == bus2 &&
            slot == slot2)
            return by_index(function, i, device);
    }
    return NVML_ERROR_NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus_id, nvmlDevice_t *device)
{
    MACHINE_CALL();
    ANSWER(by_bus_id(__func__, bus_id, device));
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    MACHINE_CALL();
    ANSWER(by_bus_id(__func__, bus_id, device));
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    MACHINE_CALL();
    REQUIRE(serial && device);
    for (unsigned int i = 0; i < attached_count(); i++) {
        const struct section *section = attached(i)->section;
        const struct value *own = section ? find(section, "serial") : NULL;
        if (own && strcmp(own->text, serial) == 0)
            ANSWER(by_index(__func__, i, device));
    }
    ANSWER(NVML_ERROR_NOT_FOUND);
}

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    DEVICE_CALL(device);
    REQUIRE(index);
    if (gpu->parent)
        *index = gpu->index;
    else if (!attached_index(device, index))
        ANSWER(NVML_ERROR_INVALID_ARGUMENT);
    ANSWER(NVML_SUCCESS);
}

/* --- device information ------------------------------------------------------------------------------------------ */

GET_TEXT(nvmlDeviceGetName, "name")
GET_TEXT(nvmlDeviceGetUUID, "uuid")
GET_TEXT(nvmlDeviceGetSerial, "serial")
GET_TEXT(nvmlDeviceGetVbiosVersion, "vbios")
GET_TEXT(nvmlDeviceGetBoardPartNumber, "board_part_number")
GET_TEXT(nvmlDeviceGetInforomImageVersion, "inforom_image_version")
GET_UINT(nvmlDeviceGetMinorNumber, "minor_number")
GET_UINT(nvmlDeviceGetBrand, "brand")
GET_UINT(nvmlDeviceGetArchitecture, "architecture")
GET_UINT(nvmlDeviceGetBoardId, "board_id")
GET_UINT(nvmlDeviceGetMultiGpuBoard, "multi_gpu_board")
GET_UINT(nvmlDeviceGetNumGpuCores, "cores")
GET_UINT(nvmlDeviceGetMemoryBusWidth, "memory_bus_width")
GET_UINT(nvmlDeviceGetBusType, "bus_type")
GET_UINT(nvmlDeviceGetIrqNum, "irq")
GET_UINT(nvmlDeviceGetPowerSource, "power_source")
GET_UINT(nvmlDeviceGetNumaNodeId, "numa_node")
GET_UINT(nvmlDeviceGetModuleId, "module_id")
GET_TWO_UINTS(nvmlDeviceGetCudaComputeCapability, "compute_capability.0", "compute_capability.1")

EXPORT nvmlReturn_t nvmlDeviceGetGspFirmwareVersion(nvmlDevice_t device, char *version)
{
    DEVICE_CALL(device);
    ANSWER(copy_text(find(gpu, "gsp_firmware_version"), version, 64));
}

GET_TWO_UINTS(nvmlDeviceGetGspFirmwareMode, "gsp_firmware_mode.enabled", "gsp_firmware_mode.default")

static nvmlReturn_t pci_numbers(const struct section *gpu, unsigned int numbers[5])
{
    const struct value *bus_id = find(gpu, "pci.bus_id");
    if (!bus_id || !parse_bus_id(bus_id->text, &numbers[0], &numbers[1], &numbers[2]))
        return NVML_ERROR_NOT_SUPPORTED;
    numbers[3] = numbers[4] = 0;
    find_uint(gpu, "pci.device_id", &numbers[3]);
    find_uint(gpu, "pci.subsystem_id", &numbers[4]);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    DEVICE_CALL(device);
    REQUIRE(pci);
    unsigned int numbers[5];
    nvmlReturn_t found = pci_numbers(gpu, numbers);
    if (found != NVML_SUCCESS)
        ANSWER(found);
    memset(pci, 0, sizeof *pci);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", numbers[0] & 0xFFFF, numbers[1] & 0xFF,
             numbers[2] & 0xFF);
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.0", numbers[0], numbers[1], numbers[2]);
    pci->domain = numbers[0];
    pci->bus = numbers[1];
    pci->device = numbers[2];
    pci->pciDeviceId = numbers[3];
    pci->pciSubSystemId = numbers[4];
    ANSWER(NVML_SUCCESS);
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_v1_t *pci)
{
    DEVICE_CALL(device);
    REQUIRE(pci);
    if (pci->version != STRUCT_VERSION(nvmlPciInfoExt_v1_t, 1))
        ANSWER(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    unsigned int numbers[5];
    nvmlReturn_t found = pci_numbers(gpu, numbers);
    if (found != NVML_SUCCESS)
        ANSWER(found);
    *pci = (nvmlPciInfoExt_v1_t){pci->version, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], 3, 0, ""};
    find_uint(gpu, "pci.subclass", &pci->subClass);
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.0", numbers[0], numbers[1], numbers[2]);
    ANSWER(NVML_SUCCESS);
}

EXPORT nvmlReturn_t nvmlDeviceGetAddressingMode(nvmlDevice_t device, nvmlDeviceAddressingMode_v1_t *mode)
{
    DEVICE_CALL(device);
    REQUIRE(mode);
    if (mode->version != STRUCT_VERSION(nvmlDeviceAddressingMode_v1_t, 1))
        ANSWER(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    ANSWER(find_uint(gpu, "addressing_mode", &mode->value) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}

/* --- utilization ------------------------------------------------------------------------------------------------- */

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out)
{
    DEVICE_CALL(device);
    REQUIRE(out);
    bool found = find_uint(gpu, "utilization.gpu", &out->gpu) && find_uint(gpu, "utilization.memory", &out->memory);
    ANSWER(found ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}

#define ENGINE(function, engine)                                                                                     \
    EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned int *utilization, unsigned int *period_us)            \
    {                                                                                                                \
        DEVICE_CALL(device);                                                                                         \
        REQUIRE(utilization &&period_us);                                                                            \
        if (!find_uint(gpu, engine ".utilization", utilization))                                                     \
            ANSWER(NVML_ERROR_NOT_SUPPORTED);                                                                        \
        if (!find_uint(gpu, engine ".sampling_period_us", period_us))                                                \
            *period_us = 167000;                                                                                     \
        ANSWER(NVML_SUCCESS);                                                                                        \
    }

ENGINE(nvmlDeviceGetEncoderUtilization, "encoder")
ENGINE(nvmlDeviceGetDecoderUtilization, "decoder")
ENGINE(nvmlDeviceGetJpgUtilization, "jpeg")
ENGINE(nvmlDeviceGetOfaUtilization, "ofa")

GET_UINT(nvmlDeviceGetPerformanceState, "performance_state")
GET_UINT(nvmlDeviceGetPowerState, "performance_state")

/* --- memory ------------------------------------------------------------------------------------------------------ */

static bool memory_of(const struct section *gpu, unsigned long long *total, unsigned long long *reserved,
                      unsigned long long *used, unsigned long long *free_)
{
    const struct value *t = find(gpu, "memory.total"), *r = find(gpu, "memory.reserved"),
                       *u = find(gpu, "memory.used"), *f = find(gpu, "memory.free");
    if (!t || !u)
        return false;
    *total = t->u;
    *reserved = r ? r->u : 0;
    *used = u->u;
    *free_ = f ? f->u : t->u - *reserved - u->u;
    return true;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    DEVICE_CALL(device);
    REQUIRE(memory);
    unsigned long long reserved;
    if (!memory_of(gpu, &memory->total, &reserved, &memory->used, &memory->free))
        ANSWER(NVML_ERROR_NOT_SUPPORTED);
    memory->used += reserved; /* the first version counts reserved memory as used */
    ANSWER(NVML_SUCCESS);
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    DEVICE_CALL(device);
    REQUIRE(memory);
    if (memory->version != STRUCT_VERSION(nvmlMemory_v2_t, 2))
        ANSWER(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    bool found = memory_of(gpu, &memory->total, &memory->reserved, &memory->used, &memory->free);
    ANSWER(found ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}

EXPORT nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory)
{
    DEVICE_CALL(device);
    REQUIRE(memory);
    const struct value *total = find(gpu, "bar1.total"), *used = find(gpu, "bar1.used");
    if (!total || !used)
        ANSWER(NVML_ERROR_NOT_SUPPORTED);
    *memory = (nvmlBAR1Memory_t){total->u, total->u - used->u, used->u};
    ANSWER(NVML_SUCCESS);
}

/* --- temperature ------------------------------------------------------------------------------------------------- */

/* Sensor 1, the hottest part of the GPU, does not exist in most drivers. */
static nvmlReturn_t sensor_value(const struct section *gpu, unsigned int sensor, unsigned int *out)
{
    if (sensor > 1 || (sensor == 1 && !find(gpu, "temperature_hottest")))
        return NVML_ERROR_INVALID_ARGUMENT;
    return find_uint(gpu, sensor ? "temperature_hottest" : "temperature", out) ? NVML_SUCCESS
                                                                               : NVML_ERROR_NOT_SUPPORTED;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor, unsigned int *out)
{
    DEVICE_CALL(device);
    REQUIRE(out);
    ANSWER(sensor_value(gpu, sensor, out));
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t *out)
{
    DEVICE_CALL(device);
    REQUIRE(out);
    if (out->version != STRUCT_VERSION(nvmlTemperature_v1_t, 1))
        ANSWER(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    ANSWER(sensor_value(gpu, out->sensorType, (unsigned int *)&out->temperature));
}

static const char *const thresholds[] = {
    "temperature_thresholds.shutdown",     "temperature_thresholds.slowdown",
    "temperature_thresholds.mem_max",      "temperature_thresholds.gpu_max",
    "temperature_thresholds.acoustic_min", "temperature_thresholds.acoustic_curr",
    "temperature_thresholds.acoustic_max", "temperature_thresholds.gps_curr",
};

GET_INDEXED(nvmlDeviceGetTemperatureThreshold, thresholds)

EXPORT nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_v1_t *out)
{
    DEVICE_CALL(device);
    REQUIRE(out);
    if (out->version != STRUCT_VERSION(nvmlMarginTemperature_v1_t, 1))
        ANSWER(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    ANSWER(find_uint(gpu, "temperature_margin", (unsigned int *)&out->marginTemperature) ? NVML_SUCCESS
                                                                                         : NVML_ERROR_NOT_SUPPORTED);
}

/* --- fans -------------------------------------------------------------------------------------------------------- */

GET_UINT(nvmlDeviceGetFanSpeed, "fan_speed")
GET_TWO_UINTS(nvmlDeviceGetMinMaxFanSpeed, "fan_speed_range.min", "fan_speed_range.max")

static unsigned int fan_count(const struct section *gpu)
{
    unsigned int count = 0;
    while (findf(gpu, "fans.%u.speed", count))
        count++;
    return count;
}

static nvmlReturn_t fan_value(const struct section *gpu, unsigned int fan, const char *name, unsigned int *out)
{
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned int fans = fan_count(gpu);
    if (fans == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (fan >= fans)
        return NVML_ERROR_INVALID_ARGUMENT;
    const struct value *value = findf(gpu, "fans.%u.%s", fan, name);
    if (!value)
        return NVML_ERROR_NOT_SUPPORTED;
    *out = (unsigned int)value->u;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetNumFans(nvmlDevice_t device, unsigned int *count)
{
    DEVICE_CALL(device);
    REQUIRE(count);
    *count = fan_count(gpu);
    ANSWER(NVML_SUCCESS);
}

EXPORT nvmlReturn_t nvmlDeviceGetFanSpeed_v2(nvmlDevice_t device, unsigned int fan, unsigned int *speed)
{
    DEVICE_CALL(device);
    ANSWER(fan_value(gpu, fan, "speed", speed));
}

EXPORT nvmlReturn_t nvmlDeviceGetTargetFanSpeed(nvmlDevice_t device, unsigned int fan, unsigned int *speed)
{
    DEVICE_CALL(device);
    ANSWER(fan_value(gpu, fan, "target", speed));
}

EXPORT nvmlReturn_t nvmlDeviceGetFanControlPolicy_v2(nvmlDevice_t device, unsigned int fan, unsigned int *policy)
{
    DEVICE_CALL(device);
    ANSWER(fan_value(gpu, fan, "policy", policy));
}

EXPORT nvmlReturn_t nvmlDeviceGetFanSpeedRPM(nvmlDevice_t device, nvmlFanSpeedInfo_v1_t *info)
{
    DEVICE_CALL(device);
    REQUIRE(info);
    if (info->version != STRUCT_VERSION(nvmlFanSpeedInfo_v1_t, 1))
        ANSWER(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    ANSWER(fan_value(gpu, info->fan, "rpm", &info->speed));
}

/* --- clocks ------------------------------------------------------------------------------------------------------ */

#define CLOCK_NAMES(kind) {kind ".graphics", kind ".sm", kind ".memory", kind ".video"}

static const char *const clocks[] = CLOCK_NAMES("clocks");
static const char *const max_clocks[] = CLOCK_NAMES("max_clocks");
static const char *const application_clocks[] = CLOCK_NAMES("application_clocks");
static const char *const default_application_clocks[] = CLOCK_NAMES("default_application_clocks");
static const char *const max_customer_boost_clocks[] = CLOCK_NAMES("max_customer_boost_clocks");

GET_INDEXED(nvmlDeviceGetClockInfo, clocks)
GET_INDEXED(nvmlDeviceGetMaxClockInfo, max_clocks)
GET_INDEXED(nvmlDeviceGetApplicationsClock, application_clocks)
GET_INDEXED(nvmlDeviceGetDefaultApplicationsClock, default_application_clocks)
GET_INDEXED(nvmlDeviceGetMaxCustomerBoostClock, max_customer_boost_clocks)

EXPORT nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, unsigned int type, unsigned int id, unsigned int *out)
{
    static const char *const *const kinds[] = {clocks, application_clocks, default_application_clocks,
                                               max_customer_boost_clocks};
    DEVICE_CALL(device);
    REQUIRE(out && type < 4 && id < 4);
    ANSWER(find_uint(gpu, kinds[id][type], out) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}

GET_ULL(nvmlDeviceGetCurrentClocksThrottleReasons, "clocks_event_reasons")
GET_ULL(nvmlDeviceGetCurrentClocksEventReasons, "clocks_event_reasons")
GET_ULL(nvmlDeviceGetSupportedClocksThrottleReasons, "clocks_event_reasons_supported")
GET_ULL(nvmlDeviceGetSupportedClocksEventReasons, "clocks_event_reasons_supported")

EXPORT nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, unsigned int policy, nvmlViolationTime_t *out)
{
    static const char *const policies[] = {
        "violations.power",           "violations.thermal",     "violations.sync_boost",       "violations.board_limit",
        "violations.low_utilization", "violations.reliability", "violations.total_app_clocks",
        "violations.total_base_clocks",
    };
    DEVICE_CALL(device);
    unsigned int index = policy >= 10 ? policy - 4 : policy; /* the numbers 6 to 9 are unused */
    REQUIRE(out && index < sizeof policies / sizeof *policies && (policy < 6 || policy >= 10));
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->referenceTime = (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000;
    ANSWER(find_counter(gpu, policies[index], &out->violationTime) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}

GET_TWO_UINTS(nvmlDeviceGetAutoBoostedClocksEnabled, "auto_boost.current", "auto_boost.default")

/* --- power ------------------------------------------------------------------------------------------------------- */

GET_UINT(nvmlDeviceGetPowerUsage, "power.usage")
GET_UINT(nvmlDeviceGetPowerManagementMode, "power.management_mode")
GET_UINT(nvmlDeviceGetPowerManagementLimit, "power.limit")
GET_UINT(nvmlDeviceGetEnforcedPowerLimit, "power.enforced_limit")
GET_UINT(nvmlDeviceGetPowerManagementDefaultLimit, "power.default_limit")
GET_TWO_UINTS(nvmlDeviceGetPowerManagementLimitConstraints, "power.min_limit", "power.max_limit")
GET_ULL(nvmlDeviceGetTotalEnergyConsumption, "energy_mj")

/* --- PCI Express ------------------------------------------------------------------------------------------------- */

GET_UINT(nvmlDeviceGetCurrPcieLinkGeneration, "pcie.generation")
GET_UINT(nvmlDeviceGetMaxPcieLinkGeneration, "pcie.max_generation")
GET_UINT(nvmlDeviceGetGpuMaxPcieLinkGeneration, "pcie.gpu_max_generation")
GET_UINT(nvmlDeviceGetCurrPcieLinkWidth, "pcie.width")
GET_UINT(nvmlDeviceGetMaxPcieLinkWidth, "pcie.max_width")
GET_UINT(nvmlDeviceGetPcieSpeed, "pcie.speed_mbps")
GET_UINT(nvmlDeviceGetPcieLinkMaxSpeed, "pcie.max_speed")
GET_UINT(nvmlDeviceGetPcieReplayCounter, "pcie.replay_counter")

static const char *const pcie_throughput[] = {"pcie.tx_kb_per_s", "pcie.rx_kb_per_s"};

GET_INDEXED(nvmlDeviceGetPcieThroughput, pcie_throughput)

/* --- modes and health -------------------------------------------------------------------------------------------- */

GET_UINT(nvmlDeviceGetComputeMode, "compute_mode")
GET_UINT(nvmlDeviceGetPersistenceMode, "persistence_mode")
GET_UINT(nvmlDeviceGetDisplayMode, "display_mode")
GET_UINT(nvmlDeviceGetDisplayActive, "display_active")
GET_UINT(nvmlDeviceGetVirtualizationMode, "virtualization_mode")
GET_UINT(nvmlDeviceGetAccountingMode, "accounting_mode")
GET_UINT(nvmlDeviceGetAccountingBufferSize, "accounting_buffer_size")
GET_TWO_UINTS(nvmlDeviceGetDriverModel, "driver_model.current", "driver_model.pending")
GET_TWO_UINTS(nvmlDeviceGetDriverModel_v2, "driver_model.current", "driver_model.pending")
GET_TWO_UINTS(nvmlDeviceGetGpuOperationMode, "gpu_operation_mode.current", "gpu_operation_mode.pending")
GET_TWO_UINTS(nvmlDeviceGetEccMode, "ecc.current", "ecc.pending")
GET_UINT(nvmlDeviceGetDefaultEccMode, "ecc.default")

#define ECC_NAMES(where) {where ".corrected_volatile", where ".corrected_aggregate", where ".uncorrected_volatile",  \
                          where ".uncorrected_aggregate"}

static nvmlReturn_t ecc_count(const struct section *gpu, const char *const names[4], unsigned int type,
                              unsigned int counter, unsigned long long *count)
{
    const struct value *enabled = find(gpu, "ecc.current");
    if (!count || type > 1 || counter > 1)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!enabled || enabled->u == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    return find_counter(gpu, names[type * 2 + counter], count) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

EXPORT nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned int type, unsigned int counter,
                                                unsigned long long *count)
{
    static const char *const names[4] = ECC_NAMES("ecc");
    DEVICE_CALL(device);
    ANSWER(ecc_count(gpu, names, type, counter, count));
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, unsigned int type, unsigned int counter,
                                                    unsigned int location, unsigned long long *count)
{
    static const char *const names[][4] = {
        ECC_NAMES("ecc.l1_cache"),      ECC_NAMES("ecc.l2_cache"),       ECC_NAMES("ecc.dram"),
        ECC_NAMES("ecc.register_file"), ECC_NAMES("ecc.texture_memory"), ECC_NAMES("ecc.texture_shm"),
        ECC_NAMES("ecc.cbu"),           ECC_NAMES("ecc.sram"),
    };
    DEVICE_CALL(device);
    REQUIRE(location < sizeof names / sizeof *names);
    ANSWER(ecc_count(gpu, names[location], type, counter, count));
}

static nvmlReturn_t retired_pages(const struct section *gpu, unsigned int cause, unsigned int *count,
                                  unsigned long long *addresses, unsigned long long *timestamps)
{
    static const char *const causes[] = {"retired_pages.single_bit", "retired_pages.double_bit"};
    if (!count || cause > 1)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!find(gpu, "retired_pages.pending"))
        return NVML_ERROR_NOT_SUPPORTED;
    unsigned int total = 0;
    while (findf(gpu, "%s.%u", causes[cause], total))
        total++;
    unsigned int room = *count;
    *count = total;
    if (room < total)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned int i = 0; addresses && i < total; i++) {
        addresses[i] = findf(gpu, "%s.%u", causes[cause], i)->u;
        if (timestamps)
            timestamps[i] = 1700000000000000ULL + i;
    }
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, unsigned int cause, unsigned int *count,
                                              unsigned long long *addresses)
{
    DEVICE_CALL(device);
    ANSWER(retired_pages(gpu, cause, count, addresses, NULL));
}

EXPORT nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, unsigned int cause, unsigned int *count,
                                                 unsigned long long *addresses, unsigned long long *timestamps)
{
    DEVICE_CALL(device);
    ANSWER(retired_pages(gpu, cause, count, addresses, timestamps));
}

GET_UINT(nvmlDeviceGetRetiredPagesPendingStatus, "retired_pages.pending")

EXPORT nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *correctable,
                                              unsigned int *uncorrectable, unsigned int *pending,
                                              unsigned int *failure)
{
    DEVICE_CALL(device);
    REQUIRE(correctable && uncorrectable && pending && failure);
    bool found = find_uint(gpu, "remapped_rows.correctable", correctable) &&
                 find_uint(gpu, "remapped_rows.uncorrectable", uncorrectable) &&
                 find_uint(gpu, "remapped_rows.pending", pending) && find_uint(gpu, "remapped_rows.failure", failure);
    ANSWER(found ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}

EXPORT nvmlReturn_t nvmlDeviceGetRemappedRows_v2(nvmlDevice_t device, nvmlRemappedRowsInfo_v2_t *out)
{
    DEVICE_CALL(device);
    REQUIRE(out);
    *out = (nvmlRemappedRowsInfo_v2_t){0};
    bool found = find_uint(gpu, "remapped_rows.correctable", &out->corrActiveRemaps) &&
                 find_uint(gpu, "remapped_rows.uncorrectable", &out->uncActiveRemaps) &&
                 find_uint(gpu, "remapped_rows.pending", &out->bPending) &&
                 find_uint(gpu, "remapped_rows.failure", &out->bfailureOccurred);
    ANSWER(found ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}

EXPORT nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t device, nvmlRowRemapperHistogramValues_t *out)
{
    DEVICE_CALL(device);
    REQUIRE(out);
    bool found = find_uint(gpu, "remapped_rows.histogram.max", &out->max) &&
                 find_uint(gpu, "remapped_rows.histogram.high", &out->high) &&
                 find_uint(gpu, "remapped_rows.histogram.partial", &out->partial) &&
                 find_uint(gpu, "remapped_rows.histogram.low", &out->low) &&
                 find_uint(gpu, "remapped_rows.histogram.none", &out->none);
    ANSWER(found ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}

/* --- MIG --------------------------------------------------------------------------------------------------------- */

GET_TWO_UINTS(nvmlDeviceGetMigMode, "mig.current", "mig.pending")

EXPORT nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is_mig)
{
    DEVICE_CALL(device);
    REQUIRE(is_mig);
    *is_mig = gpu->parent != NULL;
    ANSWER(NVML_SUCCESS);
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    DEVICE_CALL(device);
    REQUIRE(count);
    if (!find_uint(gpu, "mig.max_devices", count))
        *count = 0;
    ANSWER(NVML_SUCCESS);
}

EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index,
                                                        nvmlDevice_t *instance)
{
    unsigned int enabled = 0, places = 0;
    DEVICE_CALL(device);
    REQUIRE(instance && !gpu->parent);
    if (!find_uint(gpu, "mig.current", &enabled) || !enabled)
        ANSWER(NVML_ERROR_NOT_SUPPORTED);
    find_uint(gpu, "mig.max_devices", &places);
    REQUIRE(index < places);
    if (index >= gpu->instance_count)
        ANSWER(NVML_ERROR_NOT_FOUND);
    ANSWER(hand_out(__func__, &gpu->instances[index], instance));
}

EXPORT nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t instance, nvmlDevice_t *device)
{
    DEVICE_CALL(instance);
    REQUIRE(device && gpu->parent);
    *device = device_for(gpu->parent);
    ANSWER(NVML_SUCCESS);
}

GET_UINT(nvmlDeviceGetGpuInstanceId, "gpu_instance_id")
GET_UINT(nvmlDeviceGetComputeInstanceId, "compute_instance_id")

EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *out)
{
    DEVICE_CALL(device);
    REQUIRE(out);
    memset(out, 0, sizeof *out);
    const struct value *megabytes = find(gpu, "attributes.memory_size_mb");
    if (!megabytes)
        ANSWER(NVML_ERROR_NOT_SUPPORTED);
    out->memorySizeMB = megabytes->u;
    find_uint(gpu, "attributes.multiprocessor_count", &out->multiprocessorCount);
    find_uint(gpu, "attributes.shared_copy_engine_count", &out->sharedCopyEngineCount);
    find_uint(gpu, "attributes.shared_decoder_count", &out->sharedDecoderCount);
    find_uint(gpu, "attributes.shared_encoder_count", &out->sharedEncoderCount);
    find_uint(gpu, "attributes.shared_jpeg_count", &out->sharedJpegCount);
    find_uint(gpu, "attributes.shared_ofa_count", &out->sharedOfaCount);
    find_uint(gpu, "attributes.gpu_instance_slice_count", &out->gpuInstanceSliceCount);
    find_uint(gpu, "attributes.compute_instance_slice_count", &out->computeInstanceSliceCount);
    ANSWER(NVML_SUCCESS);
}
