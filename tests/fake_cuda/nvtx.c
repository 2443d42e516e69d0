/* NVIDIA's tools extension for machines without it: writes each range's start and end, in order, to the file that FAKE_NVTX
 * names. An end without a start ends the process with a message. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define API __attribute__((visibility("default")))
#define RANGES 65536
static char open_ranges[RANGES];
static uint64_t last;

static void tell(const char *what, uint64_t number, const char *name) {
    const char *path = getenv("FAKE_NVTX");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (!file) return;
    fprintf(file, "%s %llu %s\n", what, (unsigned long long)number, name);
    fclose(file);
}
API uint64_t nvtxRangeStartA(const char *name) {
    open_ranges[++last % RANGES] = 1;
    tell("start", last, name);
    return last;
}
API void nvtxRangeEnd(uint64_t number) {
    if (!open_ranges[number % RANGES]) {
        fprintf(stderr, "fake NVTX: range %llu is not open\n", (unsigned long long)number);
        abort();
    }
    open_ranges[number % RANGES] = 0;
    tell("end", number, "");
}
