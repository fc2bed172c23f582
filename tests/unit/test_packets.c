/* Frames of application/vnd.glia.frames: what is written is read, what is damaged is refused. */
#include "store/packets.h"
#include "support.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

static glia_buf two_frames(void) {
    glia_buf b = {0};
    size_t at = glia_packet_open(&b);
    glia_buf_adds(&b, "{\"type\":\"token\"}");
    glia_packet_end(&b, glia_packet_close(&b, at, 7, 0, 0));
    at = glia_packet_open(&b);
    glia_buf_adds(&b, "{\"type\":\"activation\",\"n\":1}");
    uint32_t sum = glia_packet_close(&b, at, 8, GLIA_PACKET_LAST, 10);
    glia_buf_add(&b, "01234", 5); /* a payload in two pieces */
    sum = glia_packet_sum(sum, "01234", 5);
    glia_buf_add(&b, "56789", 5);
    sum = glia_packet_sum(sum, "56789", 5);
    glia_packet_end(&b, sum);
    assert_false(b.failed);
    return b;
}

static void what_is_written_is_read(void **s) {
    (void)s;
    glia_buf b = two_frames();
    glia_packet p;
    size_t used, second;
    assert_int_equal(glia_packet_parse(b.p, b.n, &p, &used, NULL), GLIA_OK);
    assert_int_equal(p.number, 7);
    assert_int_equal(p.n_header % 8, 0);
    assert_memory_equal(p.header, "{\"type\":\"token\"} ", 16);
    assert_int_equal(p.n_payload, 0);
    assert_int_equal(glia_packet_parse(b.p + used, b.n - used, &p, &second, NULL), GLIA_OK);
    assert_int_equal(used + second, b.n);
    assert_int_equal(p.number, 8);
    assert_int_equal(p.flags, GLIA_PACKET_LAST);
    assert_int_equal(p.n_payload, 10);
    assert_memory_equal(p.payload, "0123456789", 10);
    glia_buf_clear(&b);
}

static void a_cut_stream_asks_for_more(void **s) {
    (void)s;
    glia_buf b = two_frames();
    glia_packet p;
    size_t used, first;
    assert_int_equal(glia_packet_parse(b.p, b.n, &p, &first, NULL), GLIA_OK);
    for (size_t n = 0; n < first; n++) {
        char *copy = malloc(n ? n : 1); /* of its own length, so that reading over its end is seen */
        memcpy(copy, b.p, n);
        assert_int_equal(glia_packet_parse(copy, n, &p, &used, NULL), GLIA_OK);
        assert_int_equal(used, 0);
        free(copy);
    }
    glia_buf_clear(&b);
}

/* A flip in the lengths may ask for bytes that are not there; everything else is refused. */
static void every_flipped_bit_is_noticed(void **s) {
    (void)s;
    glia_buf b = two_frames();
    glia_packet p;
    size_t used, first;
    glia_err err;
    assert_int_equal(glia_packet_parse(b.p, b.n, &p, &first, NULL), GLIA_OK);
    for (size_t i = 0; i < first * 8; i++) {
        b.p[i / 8] = (char)(b.p[i / 8] ^ 1 << i % 8);
        glia_status st = glia_packet_parse(b.p, first, &p, &used, &err);
        if (st == GLIA_OK && used) fail_msg("bit %zu", i);
        if (st) assert_non_null(strstr(err.message, "frames"));
        b.p[i / 8] = (char)(b.p[i / 8] ^ 1 << i % 8);
    }
    glia_buf_clear(&b);
}

static void compressed_payloads_come_back(void **s) {
    (void)s;
    char text[5000], back[5000];
    glia_buf b = {0};
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)(i * i % 17);
    glia_buf_adds(&b, "before");
    assert_true(glia_packet_compress(&b, text, sizeof text));
    assert_true(b.n < sizeof text);
    assert_int_equal(ZSTD_decompress(back, sizeof back, b.p + 6, b.n - 6), sizeof text);
    assert_memory_equal(text, back, sizeof text);
    glia_buf_clear(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(a_cut_stream_asks_for_more),
        cmocka_unit_test(every_flipped_bit_is_noticed),
        cmocka_unit_test(compressed_payloads_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
