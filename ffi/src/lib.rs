//! The C ABI of spillring, as `include/spillring.h` says it. Each exported function is three lines: check, call,
//! translate; what crosses is kept here.
//!
//! | file | what |
//! |---|---|
//! | `codes.rs` | the numbers that functions answer, and their texts |
//! | `guard.rs` | no panic crosses; the message of the last error of each thread |
//! | `site.rs` | a call site of C: how its arguments are taken, and the log call |
//! | `intern.rs` | sites described at run time |
//! | `fields.rs` | fields that only the call knows |
//! | `reserve.rs` | records that are filled in place |
//! | `life.rs` | options, init, flush, shutdown, levels, threads, counters |
//! | `reader.rs` | records read back |
//! | `handles.rs` | handles that can be wrong and do no harm |
//! | `abi.rs` | every constant and struct, as the header's static asserts check them |
#![allow(unsafe_code)]

pub mod abi;
pub mod codes;
mod fields;
mod guard;
mod handles;
mod intern;
mod life;
mod reader;
mod reserve;
mod site;

pub use fields::*;
pub use guard::{spr_error_message, spr_strerror};
pub use intern::*;
pub use life::*;
pub use reader::*;
pub use reserve::*;
pub use site::*;
