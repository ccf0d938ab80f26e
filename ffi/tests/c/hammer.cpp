#include "spillring.hpp"
#define OF_LOOP(n) SPR_INFO("loop {} {} {}", unsigned(n), ~unsigned(n), PATTERN)
#define OF_HANDLER(n) SPR_INFO("handler {} {} {}", unsigned(n), ~unsigned(n), PATTERN)
#include "hammer.inc"
