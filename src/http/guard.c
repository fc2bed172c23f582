/* http/guard.c — API keys, Host, CORS lists.  Pure.  Knows no socket. */
#include "guard.h"
#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

static bool equal_in_constant_time(const char *key, const char *given, size_t n_given) {
    size_t n = strlen(key);
    volatile unsigned char differ = n != n_given; /* volatile: no early exit may be invented for the loop */
    for (size_t i = 0; i < n_given; i++) {
        differ = (unsigned char)(differ | ((unsigned char)given[i] ^ (unsigned char)(n ? key[i % n] : 0)));
    }
    return !differ;
}

static size_t which_of(const char *const *keys, size_t n_keys, const char *given) {
    size_t n = strlen(given), found = n_keys;
    while (n && (given[n - 1] == ' ' || given[n - 1] == '\t')) n--;
    for (size_t i = 0; i < n_keys; i++) {
        size_t hit = (size_t)equal_in_constant_time(keys[i], given, n);
        found = hit * i + (1 - hit) * found; /* no branch on what was given */
    }
    return n ? found : n_keys;
}

size_t http_key_given(const char *const *keys, size_t n_keys, const char *authorization, const char *x_api_key) {
    size_t found = n_keys;
    if (authorization && !strncasecmp(authorization, "Bearer ", 7)) {
        authorization += 7;
        while (*authorization == ' ') authorization++;
        found = which_of(keys, n_keys, authorization);
    }
    if (x_api_key && found == n_keys) found = which_of(keys, n_keys, x_api_key);
    return found;
}

bool http_address_is_loopback(const char *address) {
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, address, &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
    if (inet_pton(AF_INET6, address, &v6) != 1) return false;
    if (IN6_IS_ADDR_LOOPBACK(&v6)) return true;
    return IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127;
}

bool http_host_is_local(const char *host, const char *const *names, size_t n_names) {
    char name[256];
    size_t n;
    if (host[0] == '[') {
        n = strcspn(++host, "]");
        if (host[n] != ']' || (host[n + 1] && host[n + 1] != ':')) return false;
    } else {
        n = strcspn(host, ":");
    }
    if (!n || n >= sizeof name) return false;
    memcpy(name, host, n);
    name[n] = 0;
    if (name[n - 1] == '.') name[--n] = 0;
    if (http_address_is_loopback(name) || !strcasecmp(name, "localhost")) return true;
    if (n > 10 && !strcasecmp(name + n - 10, ".localhost")) return true; /* RFC 6761 §6.3: never resolved elsewhere */
    for (size_t i = 0; i < n_names; i++) {
        if (!strcasecmp(name, names[i])) return true;
    }
    return false;
}

bool http_is_token_list(const char *s) {
    size_t n = strlen(s);
    if (!n || n > 1024) return false;
    return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_!#$%&'*+.^`|~, ") == n;
}
