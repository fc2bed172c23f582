/* cli/http_client.h — the smallest HTTP/1.1 client: one request to this machine, whole reply.  Blocks. */
#ifndef GLIA_CLI_HTTP_CLIENT_H
#define GLIA_CLI_HTTP_CLIENT_H
#include "base/buf.h"
#include "glia.h"

/* POST body to http://127.0.0.1:port/path.  *status is the HTTP status, reply the body (clear it in any case).
 * EIO: no connection, or the reply is cut. */
glia_status cli_http_post(int port, const char *path, const char *body, size_t n, int *status, glia_buf *reply,
                          glia_err *err);

#endif
