/* The child that every supervisor runs: tells its birth, then waits to be killed.
 *
 * born FIFO NAME [deaf|flood]; or, without arguments, the FIFO is ./births and NAME the working directory's name (for those
 * that run a directory's ./run). Writes "NAME PID CLOCK_MONOTONIC-in-ns\n" at once; a line this short is never torn.
 * deaf: ignores SIGTERM. flood: writes 100 MiB a second to stdout. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void flood(void) {
    static char line[1 << 20];
    memset(line, 'x', sizeof line);
    for (size_t at = 127; at < sizeof line; at += 128) line[at] = '\n';
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (;;) {
        for (size_t done = 0; done < sizeof line;) {
            ssize_t wrote = write(1, line + done, sizeof line - done);
            if (wrote < 0) return;
            done += (size_t)wrote;
        }
        next.tv_nsec += 10 * 1000 * 1000;
        if (next.tv_nsec >= 1000 * 1000 * 1000) next.tv_sec++, next.tv_nsec -= 1000 * 1000 * 1000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
}

int main(int argc, char **argv) {
    struct timespec now;
    char text[256], here[4096];
    clock_gettime(CLOCK_MONOTONIC, &now);
    const char *fifo = "births", *name = "?", *mode = argc > 3 ? argv[3] : "";
    if (argc > 2) {
        fifo = argv[1];
        name = argv[2];
    } else if (getcwd(here, sizeof here)) {
        name = strrchr(here, '/') + 1;
    }
    if (!strcmp(mode, "deaf")) signal(SIGTERM, SIG_IGN);
    int length = snprintf(text, sizeof text, "%s %d %lld\n", name, (int)getpid(),
                          (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
    int file = open(fifo, O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, text, (size_t)length) != length) return 1;
    close(file);
    if (!strcmp(mode, "flood")) flood();
    for (;;) pause();
}
