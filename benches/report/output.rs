//! Rows, and their text, JSON and SVG.

use crate::pairs::{NOISY, Pairs, Target, line, short};
use serde_json::{Value, json};
use spillring::{Error, Result};
use std::fmt::Write as _;
use std::path::Path;

/// A number that is no ratio.
#[derive(Clone, Debug)]
pub struct Number {
    /// What it is.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What it must be, if anything.
    pub target: Option<Target>,
}

/// One row.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The name that `--rows` takes.
    pub group: String,
    /// What was measured.
    pub name: String,
    /// Unit of both sides.
    pub unit: String,
    /// Names of ours and of the other.
    pub sides: (String, String),
    /// The pairs; empty where there are only numbers.
    pub pairs: Pairs,
    /// Target of the ratio.
    pub target: Option<Target>,
    /// Other numbers.
    pub numbers: Vec<Number>,
    /// What should be known with it.
    pub notes: Vec<String>,
    /// Why it is not there.
    pub missing: Option<String>,
    /// It needs something that is not ours: a rival, a tool.
    pub foreign: bool,
}

impl Row {
    /// A ratio.
    pub fn ratio(group: &str, name: impl Into<String>, unit: &str, sides: (&str, &str), pairs: Pairs) -> Row {
        Row {
            group: group.into(),
            name: name.into(),
            unit: unit.into(),
            sides: (sides.0.into(), sides.1.into()),
            pairs,
            ..Row::default()
        }
    }
    /// Numbers only.
    pub fn numbers(group: &str, name: impl Into<String>) -> Row {
        Row { group: group.into(), name: name.into(), ..Row::default() }
    }
    /// One that could not be measured.
    pub fn missing(group: &str, why: impl Into<String>) -> Row {
        Row { group: group.into(), name: group.into(), missing: Some(why.into()), ..Row::default() }
    }
    /// With a target.
    pub fn target(mut self, t: Target) -> Row {
        self.target = Some(t);
        self
    }
    /// With a note.
    pub fn note(mut self, n: impl Into<String>) -> Row {
        self.notes.push(n.into());
        self
    }
    /// With a number.
    pub fn number(mut self, name: impl Into<String>, value: f64, unit: &str, target: Option<Target>) -> Row {
        self.numbers.push(Number { name: name.into(), value, unit: unit.into(), target });
        self
    }
    /// Needs something that is not ours.
    pub fn foreign(mut self) -> Row {
        self.foreign = true;
        self
    }

    /// Lines.
    pub fn text(&self) -> String {
        let mut s = String::new();
        if let Some(why) = &self.missing {
            let why = why.lines().next().unwrap_or_default();
            return format!("{:<34} missing: {why}\n", self.name);
        }
        if self.pairs.0.is_empty() {
            let _ = writeln!(s, "{}", self.name);
        } else {
            let sides = (self.sides.0.as_str(), self.sides.1.as_str());
            let _ = writeln!(s, "{}", line(&self.name, &self.unit, sides, &self.pairs, self.target));
        }
        for n in &self.numbers {
            let _ = write!(s, "    {:<34} {:>8} {}", n.name, short(n.value), n.unit);
            if let Some(t) = n.target {
                let _ = write!(s, "  {t} {}", if t.met(n.value) { "met" } else { "MISSED" });
            }
            s.push('\n');
        }
        for n in &self.notes {
            let _ = writeln!(s, "    {n}");
        }
        s
    }

    fn json(&self) -> Value {
        let target = |t: Option<Target>| {
            t.map(|t| match t {
                Target::Most(v) => json!({"at_most": v}),
                Target::Least(v) => json!({"at_least": v}),
            })
        };
        if let Some(why) = &self.missing {
            return json!({"row": self.group, "name": self.name, "missing": why});
        }
        let numbers: Vec<Value> = self
            .numbers
            .iter()
            .map(|n| {
                let met = n.target.map(|t| t.met(n.value));
                json!({"name": n.name, "value": n.value, "unit": n.unit, "target": target(n.target), "met": met})
            })
            .collect();
        let mut v = json!({"row": self.group, "name": self.name, "numbers": numbers, "notes": self.notes});
        if !self.pairs.0.is_empty() {
            let (min, max) = self.pairs.range();
            let (ours, other) = self.pairs.sides();
            let ratio = self.pairs.ratio();
            let more = json!({
                "ratio": ratio, "min": min, "max": max, "noisy": self.pairs.noisy(),
                "target": target(self.target), "met": self.target.map(|t| t.met(ratio)), "unit": self.unit,
                self.sides.0.as_str(): ours, self.sides.1.as_str(): other,
                "pairs": self.pairs.0.iter().map(|(a, b)| json!([a, b])).collect::<Vec<_>>(),
            });
            if let (Value::Object(v), Value::Object(more)) = (&mut v, more) {
                v.extend(more);
            }
        }
        v
    }
}

/// All rows.
pub struct Report {
    facts: Vec<(String, String)>,
    /// The rows, as they come.
    pub rows: Vec<Row>,
}

impl Report {
    /// An empty one.
    pub fn new(facts: Vec<(String, String)>) -> Report {
        Report { facts, rows: Vec::new() }
    }

    /// What stands before the rows.
    pub fn head(&self) -> String {
        let mut s = String::from("spillring report\n\n");
        for (name, value) in &self.facts {
            let _ = writeln!(s, "{name:<13} {value}");
        }
        let _ = writeln!(
            s,
            "\nRatio of ours to the other: median of pairs measured in turn (smallest to largest).\n\
             noisy: they lie more than {:.0} % apart. Absolute values are for orientation.\n",
            NOISY * 100.0
        );
        s
    }

    /// What stands behind them.
    pub fn foot(&self) -> String {
        let judged = |r: &&Row| r.target.is_some() && r.missing.is_none();
        let met = |r: &Row| r.target.is_some_and(|t| t.met(r.pairs.ratio()));
        let all: Vec<&Row> = self.rows.iter().filter(judged).collect();
        let numbers = self.rows.iter().flat_map(|r| &r.numbers).filter_map(|n| Some((n, n.target?)));
        let (kept, told) =
            numbers.fold((0, 0), |(k, t), (n, target)| (k + usize::from(target.met(n.value)), t + 1));
        format!(
            "\n{} of {} targets met, {} rows noisy, {} missing\n",
            all.iter().filter(|r| met(r)).count() + kept,
            all.len() + told,
            self.rows.iter().filter(|r| !r.pairs.0.is_empty() && r.pairs.noisy()).count(),
            self.rows.iter().filter(|r| r.missing.is_some()).count(),
        )
    }

    /// Writes text, JSON and SVG.
    pub fn save(&self, dir: &Path, name: &str) -> Result<()> {
        let write = |suffix: &str, content: String| {
            let path = dir.join(format!("{name}.{suffix}"));
            std::fs::write(&path, content).map_err(|e| Error::os(path.display(), e))
        };
        std::fs::create_dir_all(dir).map_err(|e| Error::os(dir.display(), e))?;
        let rows: String = self.rows.iter().map(Row::text).collect();
        write("txt", format!("{}{rows}{}", self.head(), self.foot()))?;
        let machine: serde_json::Map<String, Value> =
            self.facts.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        write("json", format!("{:#}\n", json!({"machine": machine, "rows": rows})))?;
        write("svg", self.svg())
    }

    /// Ratios as bars from the smallest to the largest, on a logarithmic axis; a tick at the target.
    fn svg(&self) -> String {
        const LEFT: f64 = 300.0;
        const WIDTH: f64 = 520.0;
        const HIGH: f64 = 22.0;
        let rows: Vec<&Row> = self.rows.iter().filter(|r| !r.pairs.0.is_empty()).collect();
        let (mut least, mut most) = (0.5f64, 2.0f64);
        for r in &rows {
            let (min, max) = r.pairs.range();
            least = least.min(min.max(0.01));
            most = most.max(max.min(100.0));
        }
        let x = |v: f64| {
            let at = (v.clamp(least, most).ln() - least.ln()) / (most.ln() - least.ln());
            LEFT + at * WIDTH
        };
        let height = HIGH * (rows.len() as f64 + 3.0);
        let mut s = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height:.0}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            LEFT + WIDTH + 90.0
        );
        let bottom = HIGH * (rows.len() as f64 + 1.5);
        for mark in [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0] {
            if mark >= least && mark <= most {
                let (at, colour) = (x(mark), if mark == 1.0 { "#555" } else { "#ddd" });
                let _ = writeln!(
                    s,
                    "<line x1=\"{at:.1}\" y1=\"{HIGH}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\" stroke=\"{colour}\"/>\
                     <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{mark}</text>",
                    bottom + 14.0
                );
            }
        }
        for (i, r) in rows.iter().enumerate() {
            let y = HIGH * (i as f64 + 1.5);
            let ((min, max), ratio) = (r.pairs.range(), r.pairs.ratio());
            let colour = match r.target {
                Some(t) if !t.met(ratio) => "#c0392b",
                Some(_) => "#1e8449",
                None => "#2e6da4",
            };
            let _ = writeln!(
                s,
                "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <line x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" \
                 stroke-width=\"6\" opacity=\"0.4\"/>\
                 <circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>\
                 <text x=\"{:.0}\" y=\"{:.1}\">{ratio:.2}{}</text>",
                LEFT - 10.0,
                y + 4.0,
                escape(&r.name),
                x(min),
                x(max),
                x(ratio),
                LEFT + WIDTH + 10.0,
                y + 4.0,
                if r.pairs.noisy() { " noisy" } else { "" },
            );
            if let Some(Target::Most(t) | Target::Least(t)) = r.target {
                let at = x(t);
                let _ = writeln!(
                    s,
                    "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"black\" \
                     stroke-width=\"2\"/>",
                    y - 8.0,
                    y + 8.0
                );
            }
        }
        let _ = writeln!(
            s,
            "<text x=\"{LEFT}\" y=\"{:.1}\">ours / other; the black tick is the target</text>\n</svg>",
            bottom + 32.0
        );
        s
    }
}

fn escape(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
