//! The numbers that functions answer. Those below 100 are the engine's ([`Code`]); a number is never used for
//! anything else again.

use spillring::Code;
use std::ffi::CStr;

/// Done.
pub const OK: i32 = 0;
/// A pointer that must not be NULL is.
pub const NULL: i32 = 101;
/// An argument that makes no sense (a level, a type, a site's facts).
pub const ARGUMENT: i32 = 102;
/// The size in a struct is none that this library knows: the header is of another version.
pub const SIZE: i32 = 103;
/// The handle is closed, or never was one.
pub const CLOSED: i32 = 104;
/// Another thread is using the handle.
pub const BUSY: i32 = 105;
/// The record was counted as lost.
pub const LOST: i32 = 106;
/// Something in the library panicked, which is a bug of it.
pub const PANIC: i32 = 107;
/// The journal has ended: what was asked for is read, and nothing can follow.
pub const END: i32 = 108;
/// No more handles or sites: every limit has a name.
pub const LIMIT: i32 = 109;
/// Done before; what was done then holds.
pub const ALREADY: i32 = 110;

/// Name and text of each code.
pub const TABLE: &[(i32, &str, &CStr)] = &[
    (OK, "SPR_OK", c"done"),
    (Code::Os as i32, "SPR_E_OS", c"a system call failed"),
    (
        Code::NoChannel as i32,
        "SPR_E_NO_CHANNEL",
        c"there is no such channel, or no journal of it: start a drain",
    ),
    (Code::Permission as i32, "SPR_E_PERMISSION", c"no permission"),
    (Code::NoSpace as i32, "SPR_E_NO_SPACE", c"no space in the shared memory, on the disk, or in the buffer"),
    (Code::BadFile as i32, "SPR_E_BAD_FILE", c"a file is cut short or is not what its name says"),
    (Code::Version as i32, "SPR_E_VERSION", c"a file of another version"),
    (Code::Arch as i32, "SPR_E_ARCH", c"a file of another processor"),
    (Code::DrainRunning as i32, "SPR_E_DRAIN_RUNNING", c"another drain has this channel"),
    (Code::OtherJournal as i32, "SPR_E_OTHER_JOURNAL", c"the channel belongs to another journal"),
    (Code::Damaged as i32, "SPR_E_DAMAGED", c"a part of the journal is damaged"),
    (Code::BadValue as i32, "SPR_E_BAD_VALUE", c"a value that is not allowed"),
    (Code::TooLarge as i32, "SPR_E_TOO_LARGE", c"larger than a record may be, or than what was reserved"),
    (Code::Timeout as i32, "SPR_E_TIMEOUT", c"not done within the given time"),
    (Code::FileLimit as i32, "SPR_E_FILE_LIMIT", c"the file size limit (ulimit -f) forbids it"),
    (Code::WouldBlock as i32, "SPR_E_WOULD_BLOCK", c"there is no room for it now: log by copy"),
    (Code::NotAttached as i32, "SPR_E_NOT_ATTACHED", c"this process has no ring: call spr_init first"),
    (NULL, "SPR_E_NULL", c"a pointer that must not be NULL is"),
    (ARGUMENT, "SPR_E_ARGUMENT", c"an argument that makes no sense"),
    (SIZE, "SPR_E_SIZE", c"a struct of another version of the header: build the program against this one"),
    (CLOSED, "SPR_E_CLOSED", c"the handle is closed, or never was one"),
    (BUSY, "SPR_E_BUSY", c"another thread is using the handle"),
    (LOST, "SPR_E_LOST", c"the record was counted as lost"),
    (PANIC, "SPR_E_PANIC", c"something in libspillring panicked, which is a bug of it"),
    (END, "SPR_E_END", c"there is nothing more to read"),
    (LIMIT, "SPR_E_LIMIT", c"no more handles or sites of this kind"),
    (ALREADY, "SPR_E_ALREADY", c"done before; what was done then holds"),
];
