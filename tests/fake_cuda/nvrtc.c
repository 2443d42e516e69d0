/* An NVRTC for machines without one: it checks that the sources arrive whole and "compiles" them to a short text that names the
 * architecture. FAKE_NVRTC=refuse makes it refuse with a log; FAKE_NVRTC_COUNT names a file that gets a byte for each compilation.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))
struct Program { char output[256]; char log[256]; };

API int nvrtcVersion(int *major, int *minor) { *major = 13; *minor = 0; return 0; }
API int nvrtcCreateProgram(struct Program **program, const char *source, const char *name, int headers, const char *const *texts,
                           const char *const *names) {
    if (!strstr(source, "BlobNetArgs") || strcmp(name, "blobnet.cu") != 0 || headers != 4)
        return 3;
    for (int i = 0; i < headers; ++i)
        if (!strstr(names[i], ".cuh") || !strstr(texts[i], "#pragma once")) return 3;
    *program = calloc(1, sizeof **program);
    return 0;
}
API int nvrtcCompileProgram(struct Program *program, int count, const char *const *options) {
    const char *refuse = getenv("FAKE_NVRTC"), *counter = getenv("FAKE_NVRTC_COUNT");
    if (counter) {
        FILE *file = fopen(counter, "a");
        fputc('x', file);
        fclose(file);
    }
    if (refuse && strcmp(refuse, "refuse") == 0) {
        strcpy(program->log, "blobnet.cu(7): error: something is wrong\n\n1 error detected\n");
        return 6;
    }
    for (int i = 0; i < count; ++i)
        if (strncmp(options[i], "--gpu-architecture=", 19) == 0) snprintf(program->output, sizeof program->output, "fake cubin %s", options[i] + 19);
    return program->output[0] ? 0 : 5;
}
API int nvrtcGetCUBINSize(struct Program *program, size_t *size) { *size = strlen(program->output) + 1; return 0; }
API int nvrtcGetCUBIN(struct Program *program, char *bytes) { strcpy(bytes, program->output); return 0; }
API int nvrtcGetProgramLogSize(struct Program *program, size_t *size) { *size = strlen(program->log) + 1; return 0; }
API int nvrtcGetProgramLog(struct Program *program, char *bytes) { strcpy(bytes, program->log); return 0; }
API int nvrtcDestroyProgram(struct Program **program) { free(*program); *program = NULL; return 0; }
