/* Appends the time of its own main() (CLOCK_MONOTONIC, ns) to the file named by argv[1], then waits to be killed
 * (or, with a second argument, ends at once). */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct timespec now;
    char text[64];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int length = snprintf(text, sizeof text, "%lld\n", (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
    int file = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file < 0 || write(file, text, (size_t)length) != length) return 1;
    close(file);
    while (argc < 3) pause();
    return 0;
}
