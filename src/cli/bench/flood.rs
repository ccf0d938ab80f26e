//! From the first call to the last byte of a text file, and its floor: one thread that makes the same lines
//! and writes them in writes of 64 KiB.

use super::calls::{TEXT, our_text};
use super::place::{failed, until};
use spillring::sys::time::{ticks, utc_ns};
use spillring::{Error, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The number in record `i`: always with digits behind the point.
#[inline(always)]
pub fn number(i: u64) -> f64 {
    (i % 1000) as f64 * 0.5 + 0.25
}

/// Logs `n` records from this thread, waiting for room where there is none.
pub fn log(n: u64) {
    spillring::writer::may_wait(true);
    for i in 0..n {
        our_text(i as i32, number(i), TEXT);
    }
    spillring::writer::may_wait(false);
}

/// Waits for the line of the last of `n` records at the end of `file`; answers when it came.
pub fn last_line(file: &Path, n: u64, limit: Duration) -> Result<Instant> {
    let what = |e| Error::os(file.display(), e);
    let f = File::open(file).map_err(what)?;
    let marker = format!("{} {} {TEXT}", n - 1, number(n - 1));
    let mut buf = [0; 512];
    until("the last line of the text", limit, || {
        let len = f.metadata().map_or(0, |m| m.len());
        let at = len.saturating_sub(buf.len() as u64);
        match f.read_at(&mut buf, at) {
            Ok(k) => {
                let end = String::from_utf8_lossy(&buf[..k]);
                end.ends_with('\n') && end.lines().last().is_some_and(|l| l.contains(&marker))
            }
            Err(_) => false,
        }
    })?;
    Ok(Instant::now())
}

/// Checks that `file` has the lines of `n` records from byte `from` on, in order; answers their bytes.
pub fn check(file: &Path, from: u64, n: u64) -> Result<u64> {
    let what = |e| Error::os(file.display(), e);
    let mut f = File::open(file).map_err(what)?;
    std::io::Seek::seek(&mut f, std::io::SeekFrom::Start(from)).map_err(what)?;
    let (mut buf, mut held, mut next, mut bytes) = (vec![0; 1 << 20], Vec::new(), 0u64, 0);
    loop {
        let k = f.read(&mut buf).map_err(what)?;
        if k == 0 {
            break;
        }
        bytes += k as u64;
        held.extend_from_slice(&buf[..k]);
        let end = held.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        for line in held[..end].split_inclusive(|&b| b == b'\n') {
            // Cheap: the text is in it, and its number stands before it.
            let at = line.windows(TEXT.len()).position(|w| w == TEXT.as_bytes());
            let mut words = line[..at.unwrap_or(0)].rsplit(|b| !b.is_ascii_digit() && *b != b'.');
            let i = words.by_ref().filter(|w| !w.is_empty()).nth(1).map(String::from_utf8_lossy);
            if i.as_deref().and_then(|w| w.parse::<u64>().ok()) != Some(next) {
                let line = String::from_utf8_lossy(line);
                return Err(failed(format!("{}: record {next} expected: {line}", file.display())));
            }
            next += 1;
        }
        held.drain(..end);
    }
    if next == n && held.is_empty() {
        Ok(bytes)
    } else {
        Err(failed(format!("{}: {next} whole lines of {n}", file.display())))
    }
}

/// The floor: one thread formats the same lines (ryu, itoa, the digits of the time) from the same arguments
/// and writes them in writes of 64 KiB.
pub fn floor(file: &Path, n: u64) -> Result<Duration> {
    const WRITE: usize = 64 << 10;
    let what = |e| Error::os(file.display(), e);
    let mut f = File::create(file).map_err(what)?;
    let (pid, tid) = (std::process::id(), spillring::sys::process::tid());
    let head = format!(" INFO  spillring::cli::bench::calls[{pid}:{tid}] ");
    let tail = " (src/cli/bench/calls.rs:18)\n";
    let per_tick = 1.0 / super::calls::ticks_per_ns();
    let begun = Instant::now();
    let (t0, utc0) = (ticks(), utc_ns());
    let mut out = Vec::with_capacity(WRITE + 512);
    let (mut second, mut stamp) = (u64::MAX, [0u8; 20]);
    let (mut ints, mut floats) = (itoa::Buffer::new(), ryu::Buffer::new());
    for i in 0..n {
        let utc = utc0 + ((ticks() - t0) as f64 * per_tick) as u64;
        if utc / 1_000_000_000 != second {
            second = utc / 1_000_000_000;
            stamp = date(second);
        }
        out.extend_from_slice(&stamp);
        let mut digits = *b"000000000Z";
        let mut ns = utc % 1_000_000_000;
        for d in digits[..9].iter_mut().rev() {
            *d = b'0' + (ns % 10) as u8;
            ns /= 10;
        }
        out.extend_from_slice(&digits);
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(ints.format(i as i32).as_bytes());
        out.push(b' ');
        out.extend_from_slice(floats.format(number(i)).as_bytes());
        out.push(b' ');
        out.extend_from_slice(std::hint::black_box(TEXT).as_bytes());
        out.extend_from_slice(tail.as_bytes());
        if out.len() >= WRITE {
            f.write_all(&out[..WRITE]).map_err(what)?;
            out.copy_within(WRITE.., 0);
            out.truncate(out.len() - WRITE);
        }
    }
    f.write_all(&out).map_err(what)?;
    Ok(begun.elapsed())
}

/// `2026-11-21T02:44:42.` of a second since the epoch.
fn date(second: u64) -> [u8; 20] {
    let (mut days, rest) = (second / 86400, second % 86400);
    let mut year = 1970;
    let leap = |y: u64| y.is_multiple_of(4) && !y.is_multiple_of(100) || y.is_multiple_of(400);
    loop {
        let len = 365 + u64::from(leap(year));
        if days < len {
            break;
        }
        days -= len;
        year += 1;
    }
    let mut month = 1;
    for len in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < len {
            break;
        }
        days -= len;
        month += 1;
    }
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    let text = format!("{year:04}-{month:02}-{:02}T{h:02}:{m:02}:{s:02}.", days + 1);
    text.as_bytes().try_into().unwrap_or([b'?'; 20])
}

#[cfg(test)]
mod tests {
    #[allow(unused_imports)] // the report has no test harness
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(&date(0), b"1970-01-01T00:00:00.");
        assert_eq!(&date(951_782_400 + 86_399), b"2000-02-29T23:59:59.");
        assert_eq!(&date(1_795_243_482), b"2026-11-21T06:44:42.");
    }

    #[test]
    fn the_floor_writes_what_the_check_expects() {
        let d = tempfile::tempdir().unwrap();
        let file = d.path().join("lines");
        floor(&file, 3000).unwrap();
        let bytes = check(&file, 0, 3000).unwrap();
        assert_eq!(bytes, std::fs::metadata(&file).unwrap().len());
        let first = std::fs::read(&file).unwrap().iter().position(|&b| b == b'\n').unwrap() as u64;
        assert!(check(&file, 0, 3001).is_err() && check(&file, first + 1, 3000).is_err());
        assert!(last_line(&file, 3000, Duration::from_secs(5)).is_ok());
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("Z INFO  spillring::cli::bench::calls["), "{}", &text[..200]);
        assert!(text.contains("] 2 1.25 a string of thirty-five characters. (src/"), "{}", &text[..400]);
    }
}
