//! Ratios of two things measured in turn, and what is printed of them.

use std::fmt::Write as _;

/// A target for a ratio (or a value).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// At most.
    Most(f64),
    /// At least.
    Least(f64),
}

impl Target {
    /// Whether `v` keeps it.
    pub fn met(self, v: f64) -> bool {
        match self {
            Target::Most(t) => v <= t,
            Target::Least(t) => v >= t,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Most(t) => write!(f, "<= {t}"),
            Target::Least(t) => write!(f, ">= {t}"),
        }
    }
}

/// Beyond this (max - min) / median of the ratios a row is noisy.
pub const NOISY: f64 = 0.25;

/// Pairs of measurements: ours, and what it is compared with; each pair made at the same time, the order
/// within it alternating.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs(pub Vec<(f64, f64)>);

/// The middle of some numbers (of two, the lower); 0 of none.
pub fn median(mut v: Vec<f64>) -> f64 {
    percentile(&mut v, 0.5)
}

/// The number that `p` of them lie below or at; 0 of none.
pub fn percentile(v: &mut [f64], p: f64) -> f64 {
    v.sort_by(f64::total_cmp);
    v.len().checked_sub(1).map_or(0.0, |last| v[(last as f64 * p) as usize])
}

impl Pairs {
    fn ratios(&self) -> Vec<f64> {
        self.0.iter().map(|(a, b)| a / b).collect()
    }
    /// Median of the ratios.
    pub fn ratio(&self) -> f64 {
        median(self.ratios())
    }
    /// Smallest and largest ratio.
    pub fn range(&self) -> (f64, f64) {
        let r = self.ratios();
        (r.iter().copied().fold(f64::INFINITY, f64::min), r.iter().copied().fold(0.0, f64::max))
    }
    /// Median of our side, and of the other.
    pub fn sides(&self) -> (f64, f64) {
        (median(self.0.iter().map(|p| p.0).collect()), median(self.0.iter().map(|p| p.1).collect()))
    }
    /// Whether the ratios lie too far apart to be believed.
    pub fn noisy(&self) -> bool {
        let (min, max) = self.range();
        max - min > NOISY * self.ratio()
    }
}

/// A number with as many digits as matter.
pub fn short(v: f64) -> String {
    match v.abs() {
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}

/// One line: `name  ratio (min to max)  target  ours, other`.
pub fn line(name: &str, unit: &str, sides: (&str, &str), pairs: &Pairs, target: Option<Target>) -> String {
    let (min, max) = pairs.range();
    let (a, b) = pairs.sides();
    let ratio = pairs.ratio();
    let mut s = format!("{name:<34} {ratio:>6.2}  ({min:.2} to {max:.2})",);
    if let Some(t) = target {
        let _ = write!(s, "  {t:<8} {}", if t.met(ratio) { "met   " } else { "MISSED" });
    } else {
        s.push_str("                 ");
    }
    let _ = write!(s, "  {} {} {unit}, {} {} {unit}", sides.0, short(a), sides.1, short(b));
    if pairs.noisy() {
        s.push_str("  noisy");
    }
    s
}

#[cfg(test)]
mod tests {
    #[allow(unused_imports)] // the report has no test harness
    use super::*;

    #[test]
    fn ratios_are_of_pairs_and_spread_makes_noise() {
        let p = Pairs(vec![(10.0, 10.0), (22.0, 20.0), (9.0, 10.0)]);
        assert_eq!((p.ratio(), p.range(), p.sides()), (1.0, (0.9, 1.1), (10.0, 10.0)));
        assert!(!p.noisy());
        assert!(Pairs(vec![(1.0, 1.0), (1.3, 1.0), (1.0, 1.0)]).noisy());
        assert!(Target::Most(1.15).met(1.15) && !Target::Most(1.15).met(1.16) && Target::Least(0.7).met(0.7));
        let l = line("call", "ns", ("ours", "floor"), &p, Some(Target::Most(0.5)));
        assert!(l.contains("MISSED") && l.contains("(0.90 to 1.10)"), "{l}");
        assert_eq!((short(123.4), short(12.34), short(1.234)), ("123".into(), "12.3".into(), "1.23".into()));
    }
}
