/* Counts calls by function and device in a file that all processes of a world share and that tests read, for example to
 * check that a suspended GPU is not called. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "world.h"

#define SLOTS 8192

enum { FREE, CLAIMED, NAMED };

/* world.py reads this layout. */
struct slot {
    atomic_uint state;
    unsigned int unused;
    atomic_ullong calls;
    char function[64];
    char uuid[48];
};
_Static_assert(sizeof(struct slot) == 128, "world.py reads slots of 128 bytes");

static struct slot *slots;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_slots(void)
{
    const char *path = getenv("FAKE_NVML_CALLS");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, SLOTS * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        slots = mapped;
}

static unsigned int hash(const char *text, unsigned int from)
{
    for (; *text; text++)
        from = (from ^ (unsigned char)*text) * 16777619u;
    return from;
}

void count_call(const char *function, const char *uuid)
{
    pthread_once(&once, open_slots);
    if (!slots)
        return;
    for (unsigned int i = hash(uuid, hash(function, 2166136261u)), tries = 0; tries < SLOTS; i++, tries++) {
        struct slot *slot = &slots[i % SLOTS];
        unsigned int expected = FREE;
        if (atomic_compare_exchange_strong(&slot->state, &expected, CLAIMED)) {
            strncpy(slot->function, function, sizeof slot->function - 1);
            strncpy(slot->uuid, uuid, sizeof slot->uuid - 1);
            atomic_store(&slot->state, NAMED);
        }
        while (atomic_load(&slot->state) == CLAIMED)
            ;
        if (strncmp(slot->function, function, sizeof slot->function - 1) == 0 &&
            strncmp(slot->uuid, uuid, sizeof slot->uuid - 1) == 0) {
            atomic_fetch_add(&slot->calls, 1);
            return;
        }
    }
}
