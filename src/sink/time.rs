//! UTC as RFC 3339 with nanoseconds, fast for times that come one after the other.

use crate::record::PAIRS;

/// Keeps the text of the last second.
#[derive(Debug)]
pub struct Clock {
    /// When that second began, ns since the epoch.
    begin: i64,
    /// `2026-11-21T02:44:42.000000000Z`, and two bytes more: a copy of 32 is one of whole vectors.
    text: [u8; 32],
}

impl Default for Clock {
    fn default() -> Self {
        Clock { begin: 0, text: *b"1970-01-01T00:00:00.000000000Z  " }
    }
}

fn two(to: &mut [u8], v: i64) {
    to[..2].copy_from_slice(&PAIRS[v as usize]);
}

impl Clock {
    /// Appends `utc_ns` (since the epoch) as `2026-11-21T02:44:42.123456789Z`: always 30 bytes, since
    /// such times lie between the years 1677 and 2262.
    #[inline]
    pub fn put(&mut self, utc_ns: i64, out: &mut Vec<u8>) {
        let mut ns = utc_ns.wrapping_sub(self.begin) as u64;
        if ns >= 1_000_000_000 || utc_ns < 0 {
            let (second, rest) = (utc_ns.div_euclid(1_000_000_000), utc_ns.rem_euclid(1_000_000_000));
            // Seconds before 1970 are made anew each time.
            self.begin = if utc_ns < 0 { i64::MIN } else { utc_ns - rest };
            self.set(second);
            ns = rest as u64;
        }
        let ns = ns as u32;
        let (high, low) = (ns / 10_000, ns % 10_000);
        // The digits go to where they stay: a copy of what was just stored in pieces waits for them.
        let at = out.len();
        out.extend_from_slice(&self.text);
        out.truncate(at + 30);
        let text = &mut out[at + 20..at + 29];
        text[0] = b'0' + (high / 10_000) as u8;
        text[1..3].copy_from_slice(&PAIRS[(high / 100 % 100) as usize]);
        text[3..5].copy_from_slice(&PAIRS[(high % 100) as usize]);
        text[5..7].copy_from_slice(&PAIRS[(low / 100) as usize]);
        text[7..9].copy_from_slice(&PAIRS[(low % 100) as usize]);
    }

    fn set(&mut self, second: i64) {
        let (days, rest) = (second.div_euclid(86400), second.rem_euclid(86400));
        // The civil calendar by eras of 400 years that begin in March.
        let z = days + 719_468;
        let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
        let year = yoe + era * 400 + i64::from(month <= 2);
        let t = &mut self.text;
        two(&mut t[0..], year / 100);
        two(&mut t[2..], year % 100);
        two(&mut t[5..], month);
        two(&mut t[8..], day);
        two(&mut t[11..], rest / 3600);
        two(&mut t[14..], rest / 60 % 60);
        two(&mut t[17..], rest % 60);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a calendar of another make.
    #[test]
    fn agrees_with_jiff() {
        let mut clock = Clock::default();
        let mut times: Vec<i64> = vec![0, 1, -1, 999_999_999, i64::MIN, i64::MAX, 951_782_400_000_000_000];
        let mut x = 1u64;
        for _ in 0..5000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            times.push(x as i64);
            times.push((x as i64).wrapping_add(1));
        }
        for t in times {
            let mut out = Vec::new();
            clock.put(t, &mut out);
            let want = jiff::Timestamp::from_nanosecond(i128::from(t)).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), format!("{want:.9}"), "{t}");
        }
    }
}
