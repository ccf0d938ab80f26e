//! Text that no terminal takes for a command and that never breaks a line.
//!
//! | in | out |
//! |---|---|
//! | NUL, newline, carriage return | `\0`, `\n`, `\r` |
//! | other control characters, DEL | `\x1b` and the like |
//! | C1 control characters (U+0080 to U+009F) | `\u{9b}` and the like |
//! | bytes that are not UTF-8 | `\xff` and the like |
//! | tab, backslash, everything else | as it is |
//!
//! A backslash stays as it is, so that captured JSON, paths and patterns are found as they were printed.
//! So this is not reversible; what must be exact is read in raw.

use crate::record::no_byte;

/// Whether text goes through as it is. True for nearly all, so this is what has to be fast.
#[inline]
pub(super) fn plain(text: &[u8]) -> bool {
    no_byte(text, |b| (b.wrapping_sub(0x20) > 0x5e) & (b != b'\t'))
}

/// Appends `text`, escaped.
pub fn escape(text: &[u8], out: &mut Vec<u8>) {
    if plain(text) {
        return out.extend_from_slice(text);
    }
    valid_chunks(text, |good, bad| {
        valid(good, out);
        bad.iter().for_each(|&b| hex(b, out));
    });
}

/// Gives valid UTF-8 and the bytes behind it that are none, by turns.
pub(super) fn valid_chunks(text: &[u8], mut f: impl FnMut(&[u8], &[u8])) {
    text.utf8_chunks().for_each(|c| f(c.valid().as_bytes(), c.invalid()));
}

fn hex(b: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(&[b'\\', b'x', DIGITS[b as usize >> 4], DIGITS[b as usize & 15]]);
}

/// Of valid UTF-8.
fn valid(text: &[u8], out: &mut Vec<u8>) {
    let (mut from, mut i) = (0, 0);
    while i < text.len() {
        let b = text[i];
        let c1 = b == 0xc2 && text[i + 1] < 0xa0;
        if (b >= 0x20 && b != 0x7f || b == b'\t') && !c1 {
            i += 1;
            continue;
        }
        out.extend_from_slice(&text[from..i]);
        match b {
            0 => out.extend_from_slice(b"\\0"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ if c1 => {
                i += 1;
                out.extend_from_slice(format!("\\u{{{:x}}}", text[i]).as_bytes());
            }
            _ => hex(b, out),
        }
        i += 1;
        from = i;
    }
    out.extend_from_slice(&text[from..]);
}

/// Bytes at the end of `text` that may be the beginning of a character: at most 3.
pub(super) fn unfinished_char(text: &[u8]) -> usize {
    for back in 1..=text.len().min(3) {
        let b = text[text.len() - back];
        let whole = match b {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if whole > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &[u8]) -> String {
        let mut out = Vec::new();
        escape(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_kind() {
        assert_eq!(escaped(b"a\0b\nc\rd\te\x1b[31m\x7f"), "a\\0b\\nc\\rd\te\\x1b[31m\\x7f");
        assert_eq!(escaped("é\u{9b}31m\u{a0}€😀".as_bytes()), "é\\u{9b}31m\u{a0}€😀");
        assert_eq!(escaped(b"x\xffy\xc3"), "x\\xffy\\xc3");
        assert_eq!(escaped(br"C:\dir"), r"C:\dir");
    }

    /// Every byte at every place of a chunk is seen; what comes out is printable.
    #[test]
    fn all_bytes_at_all_places() {
        for b in 0..=255u8 {
            for (at, len) in [(0, 1), (2, 7), (0, 8), (8, 9), (0, 41), (1, 41), (31, 41), (32, 41), (40, 41)]
            {
                let mut text = vec![b'a'; len];
                text[at] = b;
                let whole = (0x20..0x7f).contains(&b) || b == b'\t';
                assert_eq!(plain(&text), whole, "{b:#x} at {at}");
                let e = escaped(&text);
                assert!(e.chars().all(|c| !c.is_control() || c == '\t'), "{b:#x}");
                assert_eq!(e.len() == len, whole);
            }
        }
    }

    #[test]
    fn characters_cut_anywhere() {
        for c in ["é", "€", "😀"] {
            for cut in 1..c.len() {
                let text = [b"ab", &c.as_bytes()[..cut]].concat();
                assert_eq!(unfinished_char(&text), cut, "{c} cut at {cut}");
            }
            assert_eq!(unfinished_char(c.as_bytes()), 0);
        }
        assert_eq!(unfinished_char(b"\xff"), 0);
        assert_eq!(unfinished_char(b"\x80\x80\x80\x80"), 0);
    }
}
