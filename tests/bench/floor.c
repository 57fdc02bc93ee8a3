/* The floor: start argv[1] with argv[2] and argv[3], wait for its end on a pidfd, start it again, for ever. Nothing else. */
#define _GNU_SOURCE
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <stdio.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    for (;;) {
        pid_t pid;
        if (posix_spawn(&pid, argv[1], NULL, NULL, argv + 1, environ)) return 1;
        printf("%d\n", pid);
        fflush(stdout);
        struct pollfd end = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
        if (end.fd < 0 || poll(&end, 1, -1) < 0) return 1;
        close(end.fd);
        waitpid(pid, NULL, 0);
    }
}
