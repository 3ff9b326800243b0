/* The kernels for CPUs of level baseline. */
#define LEVEL_NAME "baseline"
#define LEVEL_TABLE made_fast_level_baseline
#include "level.h"
