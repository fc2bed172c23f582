/* api/peek.h — one field of a JSON body, found without parsing the rest.  Pure functions. */
#ifndef GLIA_API_PEEK_H
#define GLIA_API_PEEK_H
#include <stdbool.h>
#include <stddef.h>

typedef enum glia_peeked { GLIA_PEEK_NONE, GLIA_PEEK_STRING, GLIA_PEEK_OTHER } glia_peeked;

/* The first value of `key` in the object that body is: a string is unescaped into out (NONE when it does not fit or is
 * no such string), anything else is copied as it stands (cut to cap).  A body that is no JSON gives something or NONE:
 * whoever parses it will say what is wrong. */
glia_peeked glia_json_peek(const char *body, size_t n, const char *key, char *out, size_t cap);
#endif
