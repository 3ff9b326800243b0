/* The kernels for CPUs of level x86-64-v2. */
#define LEVEL_NAME "x86-64-v2"
#define LEVEL_TABLE made_fast_level_v2
#include "level.h"
