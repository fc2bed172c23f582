/* api/turn.h — one turn of a conversation: what came before it, and its answer as a row of blocks.
 *
 * Part of a glia_job, for the families whose answers are items or content blocks (OpenAI's responses, Anthropic's
 * messages, LM Studio's chats).  One block is open at a time:
 *
 *   NONE ──text, reasoning or a call──► open ──more of it──► open ──something else, or the end──► closed (blocks grows)
 *
 * Whole replies go through the same three functions of the face, with `quiet` set: nothing is sent. */
#ifndef GLIA_API_TURN_H
#define GLIA_API_TURN_H
#include "base/buf.h"
#include "glia.h"

typedef struct glia_job glia_job;
typedef struct glia_choice glia_choice;

typedef enum glia_block { GLIA_BLOCK_NONE, GLIA_BLOCK_REASONING, GLIA_BLOCK_TEXT, GLIA_BLOCK_CALL } glia_block;

typedef struct glia_turn {
    bool store;        /* keep this turn, so that a later one can go on from it */
    int32_t context;   /* LM Studio: most tokens of prompt and answer; 0: what the model holds */
    char previous[96]; /* id of the turn before, or "" */
    glia_buf messages; /* the conversation up to here: OpenAI messages, joined by commas, without instructions */
    glia_buf items;    /* responses: the input of this turn as it came, joined by commas */
    glia_buf echo;     /* responses: members that the reply repeats */
    uint64_t sequence; /* responses: number of the next event */
    int32_t read;      /* prompt tokens that the client was told of */

    glia_block open;
    size_t call;      /* CALL: which one of the answer */
    int32_t n_blocks; /* opened so far; the open one is n_blocks - 1 */
    glia_buf text;    /* of the open one so far */
    glia_buf logprobs; /* of the open one: items joined by commas */
    glia_buf blocks;  /* the closed ones as JSON, joined by commas */
    glia_buf said;    /* text of all TEXT blocks */
    bool quiet;
} glia_turn;

void glia_turn_clear(glia_turn *t);

/* What a face does with the open block (turn.open, turn.call, turn.text).  close appends it to turn.blocks. */
typedef struct glia_block_face {
    void (*open)(glia_job *j, glia_choice *c);
    void (*grow)(glia_job *j, glia_choice *c, const char *text, size_t n, const glia_event *token);
    void (*close)(glia_job *j, glia_choice *c);
} glia_block_face;

/* -- what such faces use as text, reasoning and call */
void glia_block_text(glia_job *j, glia_choice *c, const char *text, size_t n, const glia_event *token);
void glia_block_reasoning(glia_job *j, glia_choice *c, const char *text, size_t n);
void glia_block_call(glia_job *j, glia_choice *c, size_t k, bool first, const char *args, size_t n);
void glia_block_open(glia_job *j, glia_choice *c, glia_block kind, size_t call);
void glia_block_close(glia_job *j, glia_choice *c); /* nothing open: nothing happens */
/* All blocks of a whole answer; at least one TEXT block when `some`. */
void glia_blocks_whole(glia_job *j, glia_choice *c, bool some);

/* Keep conversation and answer under the job's id.  body: the reply, or NULL. */
void glia_turn_keep(glia_job *j, const glia_choice *c, const char *body, size_t n_body);

#endif
