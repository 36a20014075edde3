#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#define RELOAD_INTERVAL_NS 4000000LL
#define HANG_POLL_US 20000
/* A sleep ends about this much late even without timer slack, so the rest of a latency is a busy wait. */
#define WAKE_UP_US 25
#define MAX_DEVICES 1024

/* === tables ====================================================================================================== */

struct fault {
    bool has_code, has_latency, hang, hang_unkillable, crash;
    int code;
    unsigned int latency_us;
};

/* A table holds values by dotted key, or faults by function name. */
struct entry {
    const char *key;
    uint32_t hash;
    union {
        struct value value;
        struct fault fault;
    };
};

struct table {
    struct entry *slots;
    size_t mask, used;
};

static uint32_t hash_of(const char *key)
{
    uint32_t hash = 2166136261u;
    for (; *key; key++)
        hash = (hash ^ (unsigned char)*key) * 16777619u;
    return hash;
}

static struct entry *slot_for(const struct table *table, const char *key, uint32_t hash)
{
    for (size_t i = hash & table->mask;; i = (i + 1) & table->mask) {
        struct entry *slot = &table->slots[i];
        if (!slot->key || (slot->hash == hash && strcmp(slot->key, key) == 0))
            return slot;
    }
}

static struct table *table_new(size_t capacity)
{
    struct table *table = calloc(1, sizeof *table);
    table->slots = calloc(capacity, sizeof *table->slots);
    table->mask = capacity - 1;
    return table;
}

static void table_free(struct table *table)
{
    if (table) {
        free(table->slots);
        free(table);
    }
}

static struct entry *table_put(struct table *table, const char *key)
{
    if (table->used * 3 > table->mask * 2) {
        struct table old = *table;
        table->mask = (old.mask + 1) * 2 - 1;
        table->slots = calloc(table->mask + 1, sizeof *table->slots);
        for (size_t i = 0; i <= old.mask; i++)
            if (old.slots[i].key)
                *slot_for(table, old.slots[i].key, old.slots[i].hash) = old.slots[i];
        free(old.slots);
    }
    uint32_t hash = hash_of(key);
    struct entry *slot = slot_for(table, key, hash);
    if (!slot->key) {
        slot->key = key;
        slot->hash = hash;
        table->used++;
    }
    return slot;
}

static const struct entry *table_get(const struct table *table, const char *key)
{
    const struct entry *slot = slot_for(table, key, hash_of(key));
    return slot->key ? slot : NULL;
}

const struct value *find(const struct section *section, const char *key)
{
    const struct entry *entry = table_get(section->values, key);
    return entry && !entry->value.is_null ? &entry->value : NULL;
}

const struct value *findf(const struct section *section, const char *format, ...)
{
    char key[128];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(key, sizeof key, format, arguments);
    va_end(arguments);
    return find(section, key);
}

bool find_uint(const struct section *section, const char *key, unsigned int *out)
{
    const struct value *value = find(section, key);
    if (!value || !value->is_number)
        return false;
    *out = (unsigned int)value->u;
    return true;
}

static long long monotonic_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static struct counter look_up_counter(const struct section *section, const char *key)
{
    const struct value *value = find(section, key);
    if (value)
        return (struct counter){.known = value->is_number, .value = value->u, .mask = ~0ULL};
    if (!(value = findf(section, "%s.value", key)))
        return (struct counter){.known = false};
    struct counter counter = {.known = true, .value = value->u, .mask = ~0ULL};
    const struct value *rate = findf(section, "%s.per_second", key), *since = findf(section, "%s.since_ns", key);
    if (rate && since) {
        counter.per_second = rate->d;
        counter.since_ns = (long long)since->u;
    }
    const struct value *bits = findf(section, "%s.wrap_bits", key);
    if (bits && bits->u < 64)
        counter.mask = (1ULL << bits->u) - 1;
    return counter;
}

unsigned long long counter_now(const struct counter *counter)
{
    unsigned long long total = counter->value;
    long long elapsed = counter->per_second != 0 ? monotonic_ns(CLOCK_MONOTONIC) - counter->since_ns : 0;
    if (elapsed > 0)
        total += (unsigned long long)(counter->per_second * (double)elapsed / 1e9);
    return total & counter->mask;
}

bool find_counter(const struct section *section, const char *key, unsigned long long *out)
{
    struct counter counter = look_up_counter(section, key);
    if (counter.known)
        *out = counter_now(&counter);
    return counter.known;
}

nvmlReturn_t copy_text(const struct value *value, char *buffer, unsigned int length)
{
    if (!value)
        return NVML_ERROR_NOT_SUPPORTED;
    if (!buffer)
        return NVML_ERROR_INVALID_ARGUMENT;
    size_t needed = strlen(value->text) + 1;
    if (needed > length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(buffer, value->text, needed);
    return NVML_SUCCESS;
}

/* === reading a world ============================================================================================= */

static void section_init(struct section *section)
{
    memset(section, 0, sizeof *section);
    section->values = table_new(64);
}

static void section_free(struct section *section)
{
    table_free(section->values);
    table_free(section->faults);
    free(section->processes);
    free(section->links);
    for (unsigned int i = 0; i < section->instance_count; i++)
        section_free(&section->instances[i]);
    free(section->instances);
}

static void world_free(struct world *old)
{
    section_free(&old->machine);
    for (unsigned int i = 0; i < old->gpu_count; i++)
        section_free(&old->gpus[i]);
    free(old->gpus);
    free(old->events);
    free(old->text);
    free(old);
}

static struct section *grow(struct section **sections, unsigned int *count, unsigned long index)
{
    if (index >= MAX_DEVICES)
        return NULL;
    while (*count <= index) {
        *sections = realloc(*sections, (*count + 1) * sizeof **sections);
        section_init(&(*sections)[*count]);
        (*count)++;
    }
    return &(*sections)[index];
}

/* For `prefix.N.rest`, return N and set *key to rest. */
static bool strip(char **key, const char *prefix, unsigned long *index)
{
    size_t length = strlen(prefix);
    char *end;
    if (strncmp(*key, prefix, length) != 0)
        return false;
    *index = strtoul(*key + length, &end, 10);
    if (end == *key + length || *end != '.')
        return false;
    *key = end + 1;
    return true;
}

static void unescape(char *text)
{
    char *out = text;
    for (; *text; text++) {
        if (*text == '\\' && text[1]) {
            text++;
            *out++ = *text == 'n' ? '\n' : *text;
        } else {
            *out++ = *text;
        }
    }
    *out = '\0';
}

static void parse_value(struct value *value, char *text)
{
    memset(value, 0, sizeof *value);
    if (!text) {
        value->is_null = true;
        value->text = "";
        return;
    }
    unescape(text);
    value->text = text;
    char *end;
    int base = text[0] == '0' && (text[1] == 'x' || text[1] == 'X') ? 16 : 10;
    value->u = text[0] == '-' ? (unsigned long long)strtoll(text, &end, base) : strtoull(text, &end, base);
    if (*text && !*end) {
        value->is_number = true;
        value->d = text[0] == '-' ? (double)(long long)value->u : (double)value->u;
    } else {
        value->d = strtod(text, &end);
        value->is_number = *text && !*end;
        value->u = value->is_number && value->d > 0 ? (unsigned long long)value->d : 0;
    }
}

static void add_fault(struct section *section, const char *kind, const char *function, const struct value *value)
{
    if (!section->faults)
        section->faults = table_new(16);
    struct fault *fault = &table_put(section->faults, function)->fault;
    if (strcmp(kind, "returns") == 0) {
        fault->has_code = true;
        fault->code = (int)value->u;
    } else if (strcmp(kind, "latency_us") == 0) {
        fault->has_latency = true;
        fault->latency_us = (unsigned int)value->u;
    } else if (strcmp(kind, "hang") == 0) {
        fault->hang = value->u != 0;
    } else if (strcmp(kind, "hang_unkillable") == 0) {
        fault->hang = fault->hang_unkillable = value->u != 0;
    } else {
        fault->crash = value->u != 0;
    }
}

static void collect_faults(struct section *section)
{
    static const char *const kinds[] = {"returns.", "latency_us.", "hang.", "hang_unkillable.", "crash."};
    for (size_t i = 0; i <= section->values->mask; i++) {
        const struct entry *entry = &section->values->slots[i];
        for (size_t k = 0; entry->key && k < sizeof kinds / sizeof *kinds; k++) {
            size_t length = strlen(kinds[k]);
            if (strncmp(entry->key, kinds[k], length) == 0) {
                char kind[32] = "";
                memcpy(kind, kinds[k], length - 1);
                add_fault(section, kind, entry->key + length, &entry->value);
            }
        }
    }
}

static unsigned long long number_or(const struct value *value, unsigned long long otherwise)
{
    return value && value->is_number ? value->u : otherwise;
}

static void collect_processes(struct section *section)
{
    unsigned int count = 0;
    while (findf(section, "processes.%u.pid", count))
        count++;
    section->process_count = count;
    section->processes = calloc(count + 1, sizeof *section->processes);
    for (unsigned int i = 0; i < count; i++) {
        struct process *process = &section->processes[i];
#define FIELD(name) findf(section, "processes.%u." name, i)
        const struct value *type = FIELD("type"), *name = FIELD("name");
        process->pid = (unsigned int)FIELD("pid")->u;
        process->used_memory = number_or(FIELD("used_memory"), NOT_AVAILABLE_ULL);
        process->protected_memory = number_or(FIELD("protected_memory"), 0);
        process->gpu_instance = (unsigned int)number_or(FIELD("gpu_instance_id"), NO_INSTANCE);
        process->compute_instance = (unsigned int)number_or(FIELD("compute_instance_id"), NO_INSTANCE);
        process->name = name ? name->text : NULL;
        const char *kinds = type ? type->text : "C";
        process->mps = strstr(kinds, "M") != NULL;
        process->compute = strchr(kinds, 'C') != NULL;
        process->graphics = strchr(kinds, 'G') != NULL;
        process->sm = (unsigned int)number_or(FIELD("sm_util"), 0);
        process->mem = (unsigned int)number_or(FIELD("mem_util"), 0);
        process->enc = (unsigned int)number_or(FIELD("enc_util"), 0);
        process->dec = (unsigned int)number_or(FIELD("dec_util"), 0);
        process->jpg = (unsigned int)number_or(FIELD("jpg_util"), 0);
        process->ofa = (unsigned int)number_or(FIELD("ofa_util"), 0);
        process->has_utilization = FIELD("sm_util") || FIELD("mem_util") || FIELD("enc_util") || FIELD("dec_util");
#undef FIELD
    }
}

static void collect_events(struct world *fresh)
{
    const struct section *machine = &fresh->machine;
    unsigned int count = 0;
    while (findf(machine, "events.%u.id", count))
        count++;
    fresh->event_count = count;
    fresh->events = calloc(count + 1, sizeof *fresh->events);
    for (unsigned int i = 0; i < count; i++) {
        const struct value *uuid = findf(machine, "events.%u.uuid", i);
        fresh->events[i] = (struct event){
            .id = findf(machine, "events.%u.id", i)->u,
            .type = number_or(findf(machine, "events.%u.type", i), 0),
            .data = number_or(findf(machine, "events.%u.data", i), 0),
            .uuid = uuid ? uuid->text : "",
            .gpu_instance = (unsigned int)number_or(findf(machine, "events.%u.gpu_instance_id", i), NO_INSTANCE),
            .compute_instance =
                (unsigned int)number_or(findf(machine, "events.%u.compute_instance_id", i), NO_INSTANCE),
        };
    }
}

const char *const link_counters[LINK_COUNTERS] = {"tx_bytes", "rx_bytes", "raw_tx_bytes", "raw_rx_bytes"};

static void collect_links(struct section *section)
{
    while (findf(section, "nvlink.links.%u.active", section->link_count))
        section->link_count++;
    section->links = calloc(section->link_count + 1, sizeof *section->links);
    for (unsigned int i = 0; i < section->link_count; i++)
        for (unsigned int k = 0; k < LINK_COUNTERS; k++) {
            char key[64];
            snprintf(key, sizeof key, "nvlink.links.%u.%s", i, link_counters[k]);
            section->links[i][k] = look_up_counter(section, key);
        }
}

static void finish_section(struct section *section, struct section *parent, unsigned int index)
{
    const struct value *uuid = find(section, "uuid");
    section->uuid = uuid ? uuid->text : "";
    section->parent = parent;
    section->index = index;
    collect_links(section);
    collect_faults(section);
    collect_processes(section);
    for (unsigned int i = 0; i < section->instance_count; i++)
        finish_section(&section->instances[i], section, i);
}

static char *read_file(const char *path)
{
    FILE *file = path ? fopen(path, "rb") : NULL;
    struct stat status;
    if (!file)
        return NULL;
    char *text = NULL;
    if (fstat(fileno(file), &status) == 0) {
        text = malloc((size_t)status.st_size + 1);
        text[fread(text, 1, (size_t)status.st_size, file)] = '\0';
    }
    fclose(file);
    return text;
}

static struct world *read_world(const char *path)
{
    struct world *fresh = calloc(1, sizeof *fresh);
    section_init(&fresh->machine);
    fresh->text = read_file(path);
    fresh->loaded = fresh->text != NULL;
    char *rest = NULL, *line = fresh->text ? strtok_r(fresh->text, "\n", &rest) : NULL;
    for (; line; line = strtok_r(NULL, "\n", &rest)) {
        char *text = strchr(line, '=');
        if (text)
            *text++ = '\0';
        unsigned long index;
        struct section *section = &fresh->machine;
        if (strip(&line, "gpus.", &index)) {
            section = grow(&fresh->gpus, &fresh->gpu_count, index);
            if (section && strip(&line, "mig.instances.", &index))
                section = grow(&section->instances, &section->instance_count, index);
        }
        if (section)
            parse_value(&table_put(section->values, line)->value, text);
    }
    finish_section(&fresh->machine, NULL, 0);
    for (unsigned int i = 0; i < fresh->gpu_count; i++)
        finish_section(&fresh->gpus[i], NULL, i);
    collect_events(fresh);
    return fresh;
}

/* === the current world and device handles ======================================================================== */

const struct world *world;
static pthread_rwlock_t world_lock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_mutex_t reload_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_llong next_check;

static struct nvmlDevice_st devices[MAX_DEVICES];
static atomic_uint device_count;
static pthread_mutex_t device_lock = PTHREAD_MUTEX_INITIALIZER;

static atomic_uint init_count;
static _Atomic(nvmlDevice_t) attached_devices[MAX_DEVICES];
static atomic_uint attached_total;

static const struct section *section_by_uuid(const struct world *in, const char *uuid)
{
    for (unsigned int i = 0; i < in->gpu_count; i++) {
        if (strcmp(in->gpus[i].uuid, uuid) == 0)
            return &in->gpus[i];
        for (unsigned int j = 0; j < in->gpus[i].instance_count; j++)
            if (strcmp(in->gpus[i].instances[j].uuid, uuid) == 0)
                return &in->gpus[i].instances[j];
    }
    return NULL;
}

static void reload_if_changed(bool force)
{
    long long now = monotonic_ns(CLOCK_MONOTONIC_COARSE);
    if (!force && now < atomic_load_explicit(&next_check, memory_order_relaxed))
        return;
    pthread_mutex_lock(&reload_lock);
    atomic_store(&next_check, now + RELOAD_INTERVAL_NS);
    static struct stat seen;
    static bool existed;
    const char *path = getenv("FAKE_NVML_WORLD");
    struct stat status = {0};
    bool exists = path && stat(path, &status) == 0;
    bool same = world && exists == existed &&
                (!exists || (status.st_ino == seen.st_ino && status.st_size == seen.st_size &&
                             status.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
                             status.st_mtim.tv_nsec == seen.st_mtim.tv_nsec));
    if (!same) {
        seen = status;
        existed = exists;
        struct world *fresh = read_world(exists ? path : NULL);
        pthread_rwlock_wrlock(&world_lock);
        struct world *old = (struct world *)world;
        world = fresh;
        for (unsigned int i = 0; i < atomic_load(&device_count); i++)
            devices[i].section = section_by_uuid(fresh, devices[i].uuid);
        pthread_rwlock_unlock(&world_lock);
        if (old)
            world_free(old);
    }
    pthread_mutex_unlock(&reload_lock);
}

bool is_device(nvmlDevice_t device)
{
    uintptr_t offset = (uintptr_t)device - (uintptr_t)devices;
    return device && offset % sizeof *devices == 0 && offset / sizeof *devices < atomic_load(&device_count);
}

nvmlDevice_t device_for(const struct section *section)
{
    nvmlDevice_t parent = section->parent ? device_for(section->parent) : NULL;
    pthread_mutex_lock(&device_lock);
    unsigned int count = atomic_load(&device_count);
    nvmlDevice_t device = NULL;
    for (unsigned int i = 0; i < count && !device; i++)
        if (strcmp(devices[i].uuid, section->uuid) == 0)
            device = &devices[i];
    if (!device && count < MAX_DEVICES) {
        device = &devices[count];
        snprintf(device->uuid, sizeof device->uuid, "%s", section->uuid);
        device->section = section;
        device->parent = parent;
        atomic_store(&device_count, count + 1);
    }
    pthread_mutex_unlock(&device_lock);
    return device;
}

bool is_initialized(void)
{
    return atomic_load_explicit(&init_count, memory_order_relaxed) > 0;
}

/* The first initialization determines the list of GPUs until the last shutdown. */
void increment_init_count(void)
{
    if (atomic_fetch_add(&init_count, 1) > 0)
        return;
    for (unsigned int i = 0; i < world->gpu_count; i++)
        attached_devices[i] = device_for(&world->gpus[i]);
    atomic_store(&attached_total, world->gpu_count);
}

bool decrement_init_count(void)
{
    unsigned int count = atomic_load(&init_count);
    while (count > 0)
        if (atomic_compare_exchange_weak(&init_count, &count, count - 1))
            return true;
    return false;
}

unsigned int attached_count(void)
{
    return atomic_load(&attached_total);
}

nvmlDevice_t attached(unsigned int index)
{
    return attached_devices[index];
}

bool attached_index(nvmlDevice_t device, unsigned int *index)
{
    for (unsigned int i = 0; i < attached_count(); i++)
        if (attached_devices[i] == device) {
            *index = i;
            return true;
        }
    return false;
}

/* === faults ====================================================================================================== */

static void merge(struct fault *into, const struct section *section, const char *function)
{
    if (!section || !section->faults)
        return;
    const char *const names[] = {function, "*"};
    for (int i = 0; i < 2; i++) {
        const struct entry *entry = table_get(section->faults, names[i]);
        if (!entry)
            continue;
        const struct fault *fault = &entry->fault;
        if (fault->has_code && !into->has_code) {
            into->has_code = true;
            into->code = fault->code;
        }
        if (fault->has_latency && !into->has_latency) {
            into->has_latency = true;
            into->latency_us = fault->latency_us;
        }
        into->hang |= fault->hang;
        into->hang_unkillable |= fault->hang_unkillable;
        into->crash |= fault->crash;
    }
}

static struct fault fault_for(const char *function, nvmlDevice_t device, bool with_machine)
{
    struct fault fault = {0};
    if (device) {
        merge(&fault, device->section, function);
        if (device->parent)
            merge(&fault, device->parent->section, function);
    }
    if (with_machine)
        merge(&fault, &world->machine, function);
    return fault;
}

static void sleep_us(unsigned int microseconds)
{
    struct timespec left = {microseconds / 1000000, (long)(microseconds % 1000000) * 1000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

void sleep_unlocked_us(unsigned int microseconds)
{
    pthread_rwlock_unlock(&world_lock);
    sleep_us(microseconds);
    pthread_rwlock_rdlock(&world_lock);
}

void sleep_exactly_us(unsigned int microseconds)
{
    long long end = monotonic_ns(CLOCK_MONOTONIC) + microseconds * 1000LL;
    if (microseconds > WAKE_UP_US) {
        /* The default timer slack of 50 us would make the sleep inexact. */
        int slack = prctl(PR_GET_TIMERSLACK);
        prctl(PR_SET_TIMERSLACK, 1);
        sleep_unlocked_us(microseconds - WAKE_UP_US);
        prctl(PR_SET_TIMERSLACK, slack);
    }
    while (monotonic_ns(CLOCK_MONOTONIC) < end)
        ;
}

void refresh(void)
{
    pthread_rwlock_unlock(&world_lock);
    reload_if_changed(true);
    pthread_rwlock_rdlock(&world_lock);
}

static void hang(const char *function, nvmlDevice_t device, bool with_machine)
{
    static const int stopping[] = {SIGTERM, SIGINT, SIGHUP};
    struct sigaction before[3];
    sigset_t mask_before;
    bool deaf = false;
    for (struct fault fault; (fault = fault_for(function, device, with_machine)).hang;) {
        if (fault.hang_unkillable && !deaf) {
            sigset_t all;
            sigfillset(&all);
            pthread_sigmask(SIG_SETMASK, &all, &mask_before);
            for (int i = 0; i < 3; i++)
                sigaction(stopping[i], &(struct sigaction){.sa_handler = SIG_IGN}, &before[i]);
            deaf = true;
        }
        sleep_unlocked_us(HANG_POLL_US);
        refresh();
    }
    if (deaf) {
        for (int i = 0; i < 3; i++)
            sigaction(stopping[i], &before[i], NULL);
        pthread_sigmask(SIG_SETMASK, &mask_before, NULL);
    }
}

/* Both volatile: otherwise the compiler removes the write as undefined behavior. */
static volatile int *volatile null_pointer;

static nvmlReturn_t apply_fault(const char *function, nvmlDevice_t device, bool with_machine)
{
    bool any = (with_machine && world->machine.faults) || (device && device->section && device->section->faults) ||
               (device && device->parent && device->parent->section && device->parent->section->faults);
    if (!any)
        return NVML_SUCCESS;
    struct fault fault = fault_for(function, device, with_machine);
    if (fault.latency_us) {
        sleep_exactly_us(fault.latency_us);
        fault = fault_for(function, device, with_machine);
    }
    if (fault.hang) {
        hang(function, device, with_machine);
        fault = fault_for(function, device, with_machine);
    }
    if (fault.crash) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}); /* no core file for an intended crash */
        *null_pointer = 0;
    }
    return fault.has_code ? (nvmlReturn_t)fault.code : NVML_SUCCESS;
}

nvmlReturn_t enter_machine(const char *function, bool needs_init)
{
    count_call(function, "");
    reload_if_changed(false);
    pthread_rwlock_rdlock(&world_lock);
    if (needs_init && !is_initialized())
        return NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t fault = apply_fault(function, NULL, true);
    if (fault != NVML_SUCCESS)
        return fault;
    return world->loaded ? NVML_SUCCESS : NVML_ERROR_DRIVER_NOT_LOADED;
}

nvmlReturn_t enter_device(const char *function, nvmlDevice_t device, const struct section **section)
{
    reload_if_changed(false);
    pthread_rwlock_rdlock(&world_lock);
    if (!is_initialized())
        return NVML_ERROR_UNINITIALIZED;
    if (!is_device(device))
        return NVML_ERROR_INVALID_ARGUMENT;
    count_call(function, device->uuid);
    nvmlReturn_t fault = apply_fault(function, device, true);
    if (fault != NVML_SUCCESS)
        return fault;
    *section = device->section;
    return *section ? NVML_SUCCESS : NVML_ERROR_GPU_IS_LOST;
}

nvmlReturn_t device_fault(const char *function, nvmlDevice_t device)
{
    if (!device->section)
        return NVML_ERROR_GPU_IS_LOST;
    return apply_fault(function, device, false);
}

void leave(void)
{
    pthread_rwlock_unlock(&world_lock);
}
