//! Programs that print, for `run`.

use crate::place::failed;
use spillring::{Error, Result};
use std::io::Write;
use std::time::Instant;

/// Where a generator writes how long it took, ns.
pub const TIME: &str = "REPORT_GENERATOR_TIME";

/// The line that is printed: 100 bytes.
pub const LINE: &str =
    "a line of one hundred bytes, as programs print them: a time, a name, and what it is about, 12345678\n";
const _: () = assert!(LINE.len() == 100);

/// `blocks BYTES`: writes of 64 KiB; `lines BYTES`: a write a line.
pub fn main(args: &[&str]) -> Result<()> {
    let [kind, bytes] = args else { return Err(failed("generate KIND BYTES")) };
    let bytes: usize = bytes.parse().map_err(|_| failed("generate: BYTES is a number"))?;
    let what = |e| Error::os("stdout", e);
    // Not `stdout()`, which writes line by line.
    let mut out =
        std::fs::File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned().map_err(what)?);
    let begun = Instant::now();
    if *kind == "blocks" {
        let text = LINE.repeat((64 << 10) / 100 + 2);
        let mut at = 0;
        while at < bytes {
            let n = (64 << 10).min(bytes - at);
            out.write_all(&text.as_bytes()[at % 100..][..n]).map_err(what)?;
            at += n;
        }
    } else {
        for _ in 0..bytes / 100 {
            out.write_all(LINE.as_bytes()).map_err(what)?;
        }
    }
    let took = begun.elapsed();
    if let Some(file) = std::env::var_os(TIME) {
        std::fs::write(&file, took.as_nanos().to_string()).map_err(|e| Error::os("the time", e))?;
    }
    Ok(())
}
