/* Logs some lines with a drain of its own, and reads them back. */
#include <spillring.h>
#include <stdio.h>

int main(void) {
    spr_options options = SPR_OPTIONS_INIT; /* the rest is the environment's: SPILLRING_CHANNEL, ... */
    options.drain = 1;
    int code = spr_init(&options);
    if (code != SPR_OK) {
        char why[500];
        spr_error_message(why, sizeof why, NULL);
        fprintf(stderr, "hello: %s: %s\n", spr_strerror(code), why);
        return 1;
    }
    SPR_INFO("order %d of %s at %.2f", 7, "water", 1.5);
    for (int i = 0; i < 1000; i++)
        SPR_LOG_EVERY_N(SPR_LEVEL_WARN, 500, "the %dth turn", i);

    /* Everything up to here is in the journal, or this says why not. */
    code = spr_flush(5000);
    spr_reader *reader;
    if (code != SPR_OK || (code = spr_reader_open(NULL, &reader)) != SPR_OK) {
        fprintf(stderr, "hello: %s\n", spr_strerror(code));
        return 1;
    }
    spr_record record = SPR_RECORD_INIT;
    while (spr_reader_next(reader, 0, &record) == SPR_OK)
        printf("%d %s: %s\n", (int)record.level, record.target, record.message);
    spr_reader_close(reader);
    return spr_shutdown(5000) != SPR_OK;
}
