/* harvest/record.h — a harvest in the catalogue of runs.  Any thread.  Knows manifest and store; no model. */
#ifndef GLIA_HARVEST_RECORD_H
#define GLIA_HARVEST_RECORD_H
#include "harvest/manifest.h"
#include "store/runs.h"

/* What the manifest says, recorded as the run of w. */
glia_status glia_harvest_record(const glia_manifest *m, glia_run_state state, glia_run_writer *w, glia_err *err);

/* The run whose files lie in `folder`, a real path.  ENOTFOUND: none does. */
glia_status glia_harvest_find(glia_runs *s, const char *folder, glia_run_about *out, glia_err *err);

/* Put a harvest that lies in `folder` (a path of any form) into the catalogue; its files stay where they are.  The same folder
 * again: its run is brought up to date.  about: of the run.  ENOTFOUND: no manifest there. */
glia_status glia_harvest_add(glia_runs *s, const char *folder, glia_run_about *about, glia_err *err);
#endif
