/* engine/atlas_cache.h — the verdict of the dry run, kept in the user's cache folder so that the next load of the same
 * model needs none.  Engine thread.  Knows files; the bytes are tap/verdict.h's.
 *
 * One file per key, `$XDG_CACHE_HOME/glia/atlas/<key>.bin` (without XDG_CACHE_HOME: $HOME/.cache).  The key is the SHA-256 of
 *   the versions of Glia and llama.cpp, size and time of this very program, the names of the compute devices;
 *   what changes the graph or its arithmetic: slots, layers on the GPU, flash attention, cache type;
 *   of every part of the model file: its size, all bytes before the tensors' data (header, metadata, tensor infos), and
 *   64 samples of 4 KiB spread evenly over the rest.
 * The map is made anew at each load and must have the hash that was proven, so that at worst a model whose unsampled
 * weights changed keeps a verdict on the same computation.  Files that are damaged, foreign or of another version are
 * ignored and written anew; a file is written beside its place and renamed, so that no reader sees half of one.  Nothing
 * here can fail a load. */
#ifndef GLIA_ENGINE_ATLAS_CACHE_H
#define GLIA_ENGINE_ATLAS_CACHE_H
#include "engine/model.h"

typedef struct glia_atlas_cache {
    bool usable; /* a folder and a key were found */
    unsigned char key[32];
    uint64_t map; /* hash of the map as it was built */
    char path[1024];
} glia_atlas_cache;

void glia_atlas_cache_init(glia_atlas_cache *c, const glia_model *m); /* m->atlas is built, not proven yet */
bool glia_atlas_cache_load(const glia_atlas_cache *c, glia_atlas *at); /* true: at has the proof's grades */
void glia_atlas_cache_store(const glia_atlas_cache *c, const glia_atlas *at);
#endif
