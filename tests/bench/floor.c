/* The floor: keep argv[3] children `argv[1] argv[2] u<n>` alive, each waited for on a pidfd. Nothing else. */
#define _GNU_SOURCE
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static struct pollfd ends[1000];
static pid_t pids[1000];

static void start(char **argv, int n) {
    char name[16];
    snprintf(name, sizeof name, "u%d", n);
    char *words[] = {argv[1], argv[2], name, NULL};
    if (posix_spawn(&pids[n], argv[1], NULL, NULL, words, environ)) exit(1);
    ends[n] = (struct pollfd){.fd = (int)syscall(SYS_pidfd_open, pids[n], 0), .events = POLLIN};
    if (ends[n].fd < 0) exit(1);
}

int main(int argc, char **argv) {
    int count = argc > 3 ? atoi(argv[3]) : 0;
    if (argc < 4 || count > 1000) return 2;
    for (int n = 0; n < count; n++) start(argv, n);
    for (;;) {
        if (poll(ends, (nfds_t)count, -1) < 0) return 1;
        for (int n = 0; n < count; n++) {
            if (!ends[n].revents) continue;
            close(ends[n].fd);
            waitpid(pids[n], NULL, 0);
            start(argv, n);
        }
    }
}
