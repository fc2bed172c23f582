/* api/schema.h — JSON schema → a grammar (GBNF) that matches only what the schema allows.
 *
 * Strict: what cannot be enforced is refused by name, never left out silently; annotations are passed over.  The
 * grammar is linear in the schema.  Where a schema allows more than one spelling, the grammar may allow fewer (listed
 * properties in their order, no extra ones), never more.  The one exception is oneOf, which is read as anyOf.
 * Pure; any thread. */
#ifndef GLIA_API_SCHEMA_H
#define GLIA_API_SCHEMA_H
#include "api/json.h"

enum { GLIA_SCHEMA_NODES = 10000, GLIA_SCHEMA_REPEAT = 4096, GLIA_SCHEMA_BYTES = 1 << 19 };

/* Append the rules of a grammar whose root is the schema's value.  path names the schema in the request; EINVAL names
 * the place in it. */
glia_status glia_schema_grammar(yyjson_val *schema, const char *path, glia_buf *gbnf, glia_err *err);

/* The rules of `name` for one schema, beside others in a larger grammar: needs glia_schema_basics once.
 * relaxed: keywords that cannot be enforced widen the grammar instead of being refused (arguments of tools without
 * strict: clients of that kind send any schema); limits and wrong types are errors all the same. */
glia_status glia_schema_rule(yyjson_val *schema, const char *name, const char *path, bool relaxed, glia_buf *gbnf,
                             glia_err *err);
void glia_schema_basics(glia_buf *gbnf);

/* "text" as a literal of GBNF. */
void glia_gbnf_literal(glia_buf *b, const char *text, size_t n);

/* pattern.c: a regular expression over strings → what stands between the quotes of a JSON string. */
/* … → an expression of GBNF that all of a text matches; ^ and $ at the ends are taken as read. */
glia_status glia_regex_gbnf(const char *pattern, size_t n, const char *path, glia_buf *gbnf, glia_err *err);
glia_status glia_pattern_gbnf(const char *pattern, size_t n, const char *path, glia_buf *gbnf, glia_err *err);
#endif
