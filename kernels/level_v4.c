/* The kernels for CPUs of level x86-64-v4. */
#define LEVEL_NAME "x86-64-v4"
#define LEVEL_TABLE made_fast_level_v4
#include "level.h"
