/* api/lms_predict.c — predictions of LM Studio's SDKs. */
#include "api/lms_socket.h"

const glia_endpoint glia_lms_predictions[] = {{NULL, NULL, 0, NULL, NULL}};
