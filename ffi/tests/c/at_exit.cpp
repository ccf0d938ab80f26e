// A static object logs in its destructor, which runs after the drain of the process has ended. The second run, with a
// drain again, finds what the first one has left.
#include "spillring.hpp"
#include "check.h"

struct Last {
    ~Last() { SPR_INFO("from a destructor of {}", name); }
    const char *name = "";
};
static Last last;

int main(int, char **argv) {
    last.name = argv[1];
    begin();
    SPR_INFO("from main of {}", argv[1]);
    if (strcmp(argv[1], "second"))
        return 0;
    spr_reader *r;
    CHECK(spr_flush(60000) == SPR_OK && spr_reader_open(nullptr, &r) == SPR_OK);
    spr_record rec = SPR_RECORD_INIT;
    int mains = 0, destructors = 0;
    while (!destructors || mains < 2) {
        CHECK(spr_reader_next(r, 20000, &rec) == SPR_OK);
        mains += !strncmp(rec.message, "from main of ", 13);
        destructors += !strcmp(rec.message, "from a destructor of first");
    }
    CHECK(mains == 2 && destructors == 1);
    return 0;
}
