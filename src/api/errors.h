/* api/errors.h — error bodies in the shape that a family's clients know.  Any thread. */
#ifndef GLIA_API_ERRORS_H
#define GLIA_API_ERRORS_H
#include "base/buf.h"
#include "http/http.h"

typedef enum glia_error_shape {
    GLIA_ERRORS_OPENAI,    /* {"error":{"message","type","param","code"}} */
    GLIA_ERRORS_ANTHROPIC, /* {"type":"error","error":{"type","message"}} */
    GLIA_ERRORS_LMS        /* {"error":{"type","message","code","param"?}}, LM Studio's v1 */
} glia_error_shape;

/* The members of the body, without its braces. */
void glia_add_shaped_error(glia_buf *b, const glia_err *err, glia_error_shape shape);

#endif
