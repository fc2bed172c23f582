/* cli/signals.c — Ctrl-C and SIGTERM.  A thread waits for them, so that no handler runs inside other code. */
#include "cli/cli.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool stop;

static void *wait_for_signals(void *unused) {
    (void)unused;
    sigset_t set;
    int sig;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    for (bool again = false; !sigwait(&set, &sig); again = true) {
        if (again) _exit(EXIT_INTERRUPTED); /* the first one takes too long for the user */
        (void)pthread_mutex_lock(&lock);
        stop = true;
        (void)pthread_cond_broadcast(&changed);
        (void)pthread_mutex_unlock(&lock);
        if (isatty(STDERR_FILENO)) fputs("\nglia: stopping (once more to leave at once)\n", stderr);
    }
    return NULL;
}

bool cli_signals_start(void) {
    sigset_t set;
    pthread_t thread;
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) || pthread_create(&thread, NULL, wait_for_signals, NULL)) {
        fputs("glia: cannot start a thread\n", stderr);
        return false;
    }
    (void)pthread_detach(thread);
    return true;
}

bool cli_stop_asked(void) {
    (void)pthread_mutex_lock(&lock);
    bool asked = stop;
    (void)pthread_mutex_unlock(&lock);
    return asked;
}

void cli_wait_for_stop(void) {
    (void)pthread_mutex_lock(&lock);
    while (!stop) (void)pthread_cond_wait(&changed, &lock);
    (void)pthread_mutex_unlock(&lock);
}
