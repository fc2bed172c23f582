/* api/lms_load.c — models for LM Studio's SDKs. */
#include "api/lms_socket.h"

const glia_endpoint glia_lms_loads[] = {{NULL, NULL, 0, NULL, NULL}};
