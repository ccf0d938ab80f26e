//! Times on the command line and on a terminal.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use spillring::env;

const ALLOWED: &str = "allowed: -5min (ns, us, ms, s, min, h, d before now), now, 2026-11-21T02:44:42Z, \
                       2026-11-21T02:44, 2026-11-21, 02:44 (without a zone: local time)";

/// ns since the epoch.
pub fn parse(s: &str) -> Result<i64, String> {
    parse_at(s, &Zoned::now()).ok_or_else(|| ALLOWED.to_string())
}

fn parse_at(s: &str, now: &Zoned) -> Option<i64> {
    let s = s.trim();
    let ns = |t: Timestamp| i64::try_from(t.as_nanosecond()).ok();
    if s == "now" {
        return ns(now.timestamp());
    }
    if let Some(ago) = s.strip_prefix('-') {
        let ago = i64::try_from(env::time(ago, None)?.as_nanos()).ok()?;
        return ns(now.timestamp())?.checked_sub(ago);
    }
    if let Ok(t) = s.parse::<Timestamp>() {
        return ns(t);
    }
    let local = |t: DateTime| t.to_zoned(now.time_zone().clone()).ok().and_then(|z| ns(z.timestamp()));
    if let Ok(t) = s.parse::<DateTime>() {
        return local(t);
    }
    local(now.date().to_datetime(s.parse::<Time>().ok()?))
}

/// The local form of the time that a line of text begins with (30 bytes, UTC).
pub fn local(utc: &[u8], zone: &TimeZone) -> Option<String> {
    let t: Timestamp = std::str::from_utf8(utc).ok()?.parse().ok()?;
    Some(t.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form() {
        let now: Zoned = "2026-11-21T03:00:00+01:00[+01:00]".parse().unwrap();
        let at = |s: &str| parse_at(s, &now);
        let base = now.timestamp().as_nanosecond() as i64;
        let s = 1_000_000_000;
        assert_eq!((at("now"), at("-5min"), at("-0")), (Some(base), Some(base - 300 * s), Some(base)));
        assert_eq!((at("-1500ms"), at("-2d")), (Some(base - 3 * s / 2), Some(base - 172_800 * s)));
        for same in [
            "2026-11-21T02:00:00Z",
            "2026-11-21T03:00:00+01:00",
            "2026-11-21T03:00",
            "2026-11-21 03:00:00",
            "03:00",
            "03:00:00.0",
        ] {
            assert_eq!(at(same), Some(base), "{same}");
        }
        assert_eq!(at("2026-11-21"), Some(base - 3 * 3600 * s));
        assert_eq!(at("2026-11-21T02:00:00.123456789Z"), Some(base + 123_456_789));
        for bad in ["", "-", "-5", "-5 parsecs", "yesterday-ish", "2026-13-01", "25:00", "5min", "9999-12-31"]
        {
            assert_eq!(at(bad), None, "{bad}");
        }
        assert!(parse("soon").unwrap_err().contains("-5min"));
    }

    #[test]
    fn local_time_is_as_long_as_needed_to_be_exact() {
        let zone = TimeZone::fixed(jiff::tz::offset(-3));
        let t = local(b"2026-11-21T02:44:42.123456789Z", &zone);
        assert_eq!(t.as_deref(), Some("2026-11-20T23:44:42.123456789-03:00"));
        assert_eq!(local(b"not a time", &zone), None);
    }
}
