//! Figures over runs: median and spread, one JSON line each, and the table of ratios.

use std::fmt::Write;

use serde::Serialize;

/// What a figure is called, and the raw figure that it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    pub unit: &'static str,
    limit: Option<&'static str>,
}

/// A figure over all runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// How often it was measured.
    pub runs: usize,
}

/// What was measured, in the order in which it first came.
#[derive(Debug, Default)]
pub struct Figures(Vec<(Kind, Vec<f64>)>);

impl Kind {
    /// What Redis does for the plainest client.
    pub const fn raw(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, limit: None }
    }

    /// What Umbel does that Redis alone does not.
    pub const fn own(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, limit: None }
    }

    /// What Umbel does, in the unit of its limit.
    pub const fn against(limit: Self, name: &'static str) -> Self {
        Self { name, unit: limit.unit, limit: Some(limit.name) }
    }
}

impl Figures {
    /// Adds what one run measured.
    pub fn add(&mut self, kind: Kind, value: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, values)) => values.push(value),
            None => self.0.push((kind, vec![value])),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Figure> {
        self.0.iter().map(|(kind, values)| Figure {
            name: kind.name,
            unit: kind.unit,
            median: rounded(median(values)),
            min: rounded(values.iter().copied().fold(f64::INFINITY, f64::min)),
            max: rounded(values.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
            runs: values.len(),
        })
    }

    /// Medians of Umbel's figures beside those of the raw limit, and their ratio.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:<24} {:<8} {:>12} {:>12} {:>7}\n",
            "figure", "unit", "raw limit", "umbel", "ratio"
        );
        for (kind, values) in &self.0 {
            let limit = self.0.iter().find(|(raw, _)| Some(raw.name) == kind.limit);
            if let Some((_, raw)) = limit {
                let (raw, own) = (median(raw), median(values));
                let digits = if raw.max(own) < 100.0 { 3 } else { 0 };
                writeln!(
                    table,
                    "{:<24} {:<8} {raw:>12.digits$} {own:>12.digits$} {:>7.2}",
                    kind.name,
                    kind.unit,
                    own / raw
                )
                .expect("a String takes all");
            } else if !kind.name.starts_with("raw.") {
                writeln!(table, "{:<24} {:<8} {:>25.3}", kind.name, kind.unit, median(values))
                    .expect("a String takes all");
            }
        }
        table
    }
}

/// The smallest value that at least this share of all, `0.0 ..= 1.0`, does not exceed.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let sorted = sorted(values);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// To a thousandth: what is beyond is noise, in tasks a second as in milliseconds.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: Kind = Kind::raw("raw.drain", "tasks/s");
    const OWN: Kind = Kind::against(RAW, "drain");

    #[test]
    fn a_figure_tells_its_median_and_spread() {
        let mut figures = Figures::default();
        for value in [30.0, 10.0, 20.0004] {
            figures.add(RAW, value);
        }
        let figure = Figure {
            name: "raw.drain",
            unit: "tasks/s",
            median: 20.0,
            min: 10.0,
            max: 30.0,
            runs: 3,
        };
        assert_eq!(figures.iter().collect::<Vec<_>>(), [figure]);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn the_table_holds_each_figure_against_its_own_limit() {
        let mut figures = Figures::default();
        figures.add(Kind::raw("raw.enqueue", "tasks/s"), 1.0);
        figures.add(RAW, 200_000.0);
        figures.add(OWN, 50_000.0);
        let table = figures.table();
        let rows: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1..], [["drain", "tasks/s", "200000", "50000", "0.25"]]);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 50.0);
        assert_eq!(percentile(&values, 0.99), 99.0);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
    }
}
