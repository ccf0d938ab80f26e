//! Paths without allocation. Everything here is async-signal-safe, except [`FixedPath::to_path`].

use super::Errno;
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Bytes of a path, its NUL included. Less than PATH_MAX: it must fit on a small signal stack.
pub const CAPACITY: usize = 512;

/// A NUL-terminated path of bounded length.
#[derive(Clone, Copy)]
pub struct FixedPath {
    len: usize,
    buf: [u8; CAPACITY],
}

impl FixedPath {
    /// The empty path.
    pub const fn new() -> Self {
        FixedPath { len: 0, buf: [0; CAPACITY] }
    }

    /// `bytes` as a path.
    ///
    /// # Errors
    /// ENAMETOOLONG beyond [`CAPACITY`], EINVAL with a NUL inside.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Errno> {
        let mut p = FixedPath::new();
        p.push(bytes)?;
        Ok(p)
    }

    /// Appends bytes; nothing is appended on error (see [`FixedPath::from_bytes`]).
    pub fn push(&mut self, bytes: &[u8]) -> Result<&mut Self, Errno> {
        if bytes.contains(&0) {
            return Err(Errno(libc::EINVAL));
        }
        if self.len + bytes.len() >= CAPACITY {
            return Err(Errno(libc::ENAMETOOLONG));
        }
        self.buf[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(self)
    }

    /// Appends a decimal number.
    pub fn push_dec(&mut self, mut v: u64) -> Result<&mut Self, Errno> {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (v % 10) as u8;
            v /= 10;
            if v == 0 {
                break;
            }
        }
        self.push(&digits[at..])
    }

    /// Appends 16 hexadecimal digits.
    pub fn push_hex(&mut self, v: u64) -> Result<&mut Self, Errno> {
        let mut digits = [0u8; 16];
        for (i, d) in digits.iter_mut().enumerate() {
            *d = b"0123456789abcdef"[(v >> (60 - 4 * i)) as usize & 15];
        }
        self.push(&digits)
    }

    /// This directory's entry `name`.
    pub fn join(&self, name: &[u8]) -> Result<Self, Errno> {
        let mut p = *self;
        p.push(b"/")?;
        p.push(name)?;
        Ok(p)
    }

    /// Cuts the path back to `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.buf[len..self.len].fill(0);
            self.len = len;
        }
    }

    /// The bytes without the NUL.
    pub fn as_bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }

    /// The path for a system call.
    pub fn as_c(&self) -> &CStr {
        // No NUL can be inside, and the one behind the end is always there: both kept by `push`.
        CStr::from_bytes_until_nul(&self.buf).unwrap_or(c"")
    }

    /// The path as the standard library has it. Allocates: for messages and the consumer's side.
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(self.as_bytes()))
    }
}

impl Default for FixedPath {
    fn default() -> Self {
        FixedPath::new()
    }
}

impl std::fmt::Debug for FixedPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_path().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_from_parts() {
        let mut p = FixedPath::from_bytes(b"/dev/shm").unwrap().join(b"x-").unwrap();
        p.push_dec(0).unwrap().push(b".").unwrap().push_dec(u64::MAX).unwrap();
        p.push(b".").unwrap().push_hex(0x0123_4567_89ab_cdef).unwrap();
        assert_eq!(p.as_c(), c"/dev/shm/x-0.18446744073709551615.0123456789abcdef");
        p.truncate(8);
        assert_eq!(p.as_c(), c"/dev/shm");
    }

    #[test]
    fn too_long_and_nul_change_nothing() {
        let mut p = FixedPath::from_bytes(b"/a").unwrap();
        assert_eq!(p.push(&[b'x'; CAPACITY - 2]).unwrap_err(), Errno(libc::ENAMETOOLONG));
        assert_eq!(p.push(b"a\0b").unwrap_err(), Errno(libc::EINVAL));
        assert_eq!(p.as_bytes(), b"/a");
        p.push(&[b'x'; CAPACITY - 3]).unwrap();
        assert_eq!(p.as_c().to_bytes().len(), CAPACITY - 1);
    }
}
