#define _GNU_SOURCE
#include "spillring.h"
#define OF_LOOP(n) SPR_INFO("loop %u %u %s", n, ~(n), PATTERN)
#define OF_HANDLER(n) SPR_INFO("handler %u %u %s", n, ~(n), PATTERN)
#include "hammer.inc"
