/* api/feature_sets.c — see feature_sets.h.  Each pair is read at its last token: both end alike where they can. */
#include "api/feature_sets.h"
#include <string.h>

static const glia_feature_set sets[] = {
    {"question",
     "syntactic",
     "the sentence asks",
     {"Is the door open", "Are the children asleep", "Can the old man swim", "Has the train left", "Will the rain stop",
      "Does the shop open on Sunday", "Did the cat eat the fish", "Was the water cold", "Should the boys go home",
      "Were the letters sent"},
     {"The door is open", "The children are asleep", "The old man can swim", "The train has left", "The rain will stop",
      "The shop does open on Sunday", "The cat did eat the fish", "The water was cold", "The boys should go home",
      "The letters were sent"}},
    {"negation",
     "semantic",
     "the sentence denies",
     {"The door is not open", "She does not like the soup", "They did not see the ship", "The answer was not right",
      "He has not finished the work", "We do not know the way", "The road is not safe", "It will not be late",
      "The dog was not hungry", "You cannot read the map"},
     {"The door is now open", "She does really like the soup", "They did soon see the ship",
      "The answer was quite right", "He has just finished the work", "We do all know the way", "The road is very safe",
      "It will surely be late", "The dog was still hungry", "You can read the map"}},
    {"past_tense",
     "syntactic",
     "the sentence tells of the past",
     {"She walked to the market", "They opened the window", "He cooked the rice", "We waited for the bus",
      "The boys played in the garden", "I called my sister", "The farmer planted the trees",
      "The teacher asked a question", "The king lived in a castle", "You painted the wall"},
     {"She walks to the market", "They open the window", "He cooks the rice", "We wait for the bus",
      "The boys play in the garden", "I call my sister", "The farmer plants the trees", "The teacher asks a question",
      "The king lives in a castle", "You paint the wall"}},
    {"plural",
     "syntactic",
     "the last noun stands for several",
     {"I saw the dogs", "She bought the books", "They found the keys", "He painted the houses", "We met the teachers",
      "You heard the birds", "He climbed the trees", "She wrote the letters", "They fixed the cars",
      "I counted the ships"},
     {"I saw the dog", "She bought the book", "They found the key", "He painted the house", "We met the teacher",
      "You heard the bird", "He climbed the tree", "She wrote the letter", "They fixed the car", "I counted the ship"}},
    {"french",
     "semantic",
     "the text is French, not English",
     {"Le chat dort sur la chaise", "Nous mangeons du pain", "La maison est grande", "Il fait froid ce matin",
      "Elle lit un livre", "Les enfants jouent dehors", "Je cherche mes clefs", "Le train arrive demain",
      "Vous parlez trop vite", "Ils vont au marché"},
     {"The cat sleeps on the chair", "We are eating bread", "The house is big", "It is cold this morning",
      "She is reading a book", "The children play outside", "I am looking for my keys", "The train arrives tomorrow",
      "You speak too fast", "They go to the market"}},
    {"number",
     "arithmetic",
     "the text ends in a number",
     {"The year was 1984", "She is 35", "The room holds 120", "He ran 42", "We counted 17", "The price is 250",
      "They sold 600", "The answer is 8", "It weighs 75", "The page is 301"},
     {"The year was good", "She is tall", "The room holds many", "He ran far", "We counted sheep", "The price is high",
      "They sold everything", "The answer is yes", "It weighs nothing", "The page is torn"}},
};

size_t glia_feature_sets(const glia_feature_set **out) {
    *out = sets;
    return sizeof sets / sizeof *sets;
}

const glia_feature_set *glia_feature_set_find(const char *name) {
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        if (!strcmp(name, sets[i].name)) return &sets[i];
    }
    return NULL;
}
