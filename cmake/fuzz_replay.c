/* Replays a fuzzer's corpus without libFuzzer: every file of the given folders and files goes through the target once.
 * Prints what it replays, so that a crash names its input. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

static int n_replayed;

static void replay_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) { perror(path); exit(2); }
    uint8_t *data = NULL;
    size_t n = 0, room = 0;
    for (;;) {
        if (n == room && !(data = realloc(data, room = room ? room * 2 : 4096))) exit(2);
        size_t got = fread(data + n, 1, room - n, f);
        if (!got) break;
        n += got;
    }
    fclose(f);
    uint8_t *exact = malloc(n ? n : 1); /* so that ASan sees the first byte too far */
    if (!exact) exit(2);
    for (size_t i = 0; i < n; i++) exact[i] = data[i];
    free(data);
    printf("replay %s (%zu bytes)\n", path, n);
    fflush(stdout);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    n_replayed++;
}

static void replay(const char *path) {
    struct stat st;
    if (stat(path, &st)) return; /* no corpus yet */
    if (!S_ISDIR(st.st_mode)) { replay_file(path); return; }
    struct dirent **list = NULL;
    int n = scandir(path, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char child[4096];
        if (list[i]->d_name[0] != '.' && snprintf(child, sizeof child, "%s/%s", path, list[i]->d_name) < (int)sizeof child)
            replay(child);
        free(list[i]);
    }
    free(list);
}

int main(int argc, char **argv) {
    if (LLVMFuzzerInitialize) LLVMFuzzerInitialize(&argc, &argv);
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++) replay(argv[i]);
    printf("%d inputs and the empty one\n", n_replayed);
    return 0;
}
