/* Lets a Python process tell valgrind's callgrind which part of its work is counted. */
#include <valgrind/callgrind.h>

void begin(void);
void end(const char *name);

void begin(void) { CALLGRIND_START_INSTRUMENTATION; }

/* Writes what was counted since begin() to a file of its own, marked with the name. */
void end(const char *name)
{
    CALLGRIND_STOP_INSTRUMENTATION;
    CALLGRIND_DUMP_STATS_AT(name);
}
