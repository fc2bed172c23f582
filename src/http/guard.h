/* http/guard.h — who may ask: API keys, Host against DNS rebinding, CORS header lists.
 *
 * Pure, any thread.  Knows no socket and no libmicrohttpd. */
#ifndef GLIA_HTTP_GUARD_H
#define GLIA_HTTP_GUARD_H
#include <stdbool.h>
#include <stddef.h>

/* Is one of keys given, and which (the last one that fits)?  n_keys: none.  The time taken does not depend on how much of
 * a key is right, nor on which one it is. */
size_t http_key_given(const char *const *keys, size_t n_keys, const char *authorization, const char *x_api_key);

/* Does this Host header ("name", "name:port", "[v6]:port") name this machine's loopback, or one of names?
 * A page on the web may let its own name resolve to 127.0.0.1; the browser then sends that name here. */
bool http_host_is_local(const char *host, const char *const *names, size_t n_names);

bool http_address_is_loopback(const char *address); /* numeric, without brackets */

/* "X-Foo, content-type": only token characters, commas and spaces, and short. */
bool http_is_token_list(const char *s);
#endif
