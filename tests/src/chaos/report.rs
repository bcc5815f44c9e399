//! What a scenario was to reach and what it reached, for people.

use std::{fmt::Write, time::Duration};

use super::audit::{Audit, Evidence};

/// How many broken laws are told of one scenario; the first ones say most.
const WRONGS_TOLD: usize = 10;

/// Something a scenario must reach.
#[derive(Debug, Clone)]
pub struct Claim {
    pub what: String,
    pub wanted: String,
    pub got: String,
    pub is_met: bool,
}

/// One scenario's outcome.
#[derive(Debug, Default)]
pub struct Report {
    pub name: &'static str,
    pub fault: &'static str,
    pub audit: Audit,
    pub claims: Vec<Claim>,
    pub took: Duration,
    /// It did not come to its end, and why.
    pub broke: Option<String>,
}

impl Report {
    /// With what every scenario must reach: nothing is lost, no law is broken, and every task has
    /// succeeded that was neither taken away nor is meant to be dead.
    pub fn of(evidence: &Evidence, dead: usize) -> Self {
        Self::from_audit(Audit::of(evidence), dead)
    }

    fn from_audit(audit: Audit, dead: usize) -> Self {
        let (lost, broken) = (audit.lost.len(), audit.wrongs.len());
        let due = audit.tasks.saturating_sub(audit.taken.len() + dead);
        let done = (audit.succeeded, audit.dead.len());
        let mut report = Self { audit, ..Self::default() };
        report.exactly("tasks lost", 0, lost);
        report.exactly("tasks that succeeded", due, done.0);
        report.exactly("dead letters", dead, done.1);
        report.exactly("laws broken", 0, broken);
        report
    }

    pub fn exactly(&mut self, what: &str, wanted: usize, got: usize) {
        self.claim(what, &wanted.to_string(), &got.to_string(), wanted == got);
    }

    pub fn at_most(&mut self, what: &str, most: usize, got: usize) {
        self.claim(what, &format!("≤ {most}"), &got.to_string(), got <= most);
    }

    pub fn at_least(&mut self, what: &str, least: usize, got: usize) {
        self.claim(what, &format!("≥ {least}"), &got.to_string(), got >= least);
    }

    /// A time that was measured; none at all is a miss.
    pub fn within(&mut self, what: &str, longest: Duration, got_ms: Option<i64>) {
        let most = longest.as_millis() as i64;
        let got = got_ms.map_or("nothing measured".to_owned(), seconds);
        self.claim(
            what,
            &format!("≤ {}", seconds(most)),
            &got,
            got_ms.is_some_and(|ms| ms <= most),
        );
    }

    fn claim(&mut self, what: &str, wanted: &str, got: &str, is_met: bool) {
        let [what, wanted, got] = [what, wanted, got].map(str::to_owned);
        self.claims.push(Claim { what, wanted, got, is_met });
    }

    pub fn is_met(&self) -> bool {
        self.broke.is_none() && self.claims.iter().all(|claim| claim.is_met)
    }

    /// Everything that was missed, for a test that fails.
    pub fn misses(&self) -> String {
        let mut text = String::new();
        if let Some(why) = &self.broke {
            let _ = writeln!(text, "it broke: {why}");
        }
        for Claim { what, wanted, got, .. } in self.claims.iter().filter(|claim| !claim.is_met) {
            let _ = writeln!(text, "{what}: wanted {wanted}, got {got}");
        }
        let told = |lines: Vec<String>| -> String {
            lines.iter().take(WRONGS_TOLD).map(|line| format!("    {line}\n")).collect()
        };
        if !self.is_met() {
            text += &told(self.audit.wrongs.iter().map(ToString::to_string).collect());
            let unwritten = |id: &String| match self.audit.unwritten.get(id) {
                Some(ms) => format!(", accepted {ms} ms before a fault and never written"),
                None => String::new(),
            };
            let lost = |id: &String| format!("lost: {id}{}", unwritten(id));
            text += &told(self.audit.lost.iter().map(lost).collect());
            text += &told(self.audit.unexplained.iter().map(|s| format!("again: {s}")).collect());
        }
        text
    }
}

/// All of them as one table in Markdown, the claims below it.
pub fn table(reports: &[Report]) -> String {
    let mut text = String::from(
        "| scenario | fault | tasks | faults | lost | done once | executions | repeated \
         (unexplained) | double effects | recovery p50 / p99 | took | |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for report in reports {
        let audit = &report.audit;
        let recovery = match (audit.recovery(50), audit.recovery(99)) {
            (Some(p50), Some(p99)) => format!("{} / {}", seconds(p50), seconds(p99)),
            _ => "–".to_owned(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} ({}) | {} | {recovery} | {:.0} s | {} |",
            report.name,
            report.fault,
            audit.tasks,
            audit.faults,
            audit.lost.len(),
            audit.succeeded,
            audit.executions,
            audit.repeated,
            audit.unexplained.len(),
            audit.double_effects,
            report.took.as_secs_f64(),
            if report.is_met() { "held" } else { "MISSED" },
        );
    }
    text += "\n| scenario | claim | wanted | got | |\n|---|---|---|---|---|\n";
    for report in reports {
        for Claim { what, wanted, got, is_met } in &report.claims {
            let verdict = if *is_met { "held" } else { "MISSED" };
            let _ = writeln!(text, "| {} | {what} | {wanted} | {got} | {verdict} |", report.name);
        }
        if let Some(why) = &report.broke {
            let why = why.replace('\n', " ");
            let _ = writeln!(text, "| {} | comes to its end | yes | {why} | MISSED |", report.name);
        }
    }
    text
}

fn seconds(ms: i64) -> String {
    format!("{:.1} s", ms as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_is_missed_is_told_and_misses_the_whole() {
        let audit =
            Audit { tasks: 3, succeeded: 2, lost: vec!["x".to_owned()], ..Audit::default() };
        let mut report = Report::from_audit(audit, 0);
        assert!(!report.is_met());
        assert!(report.misses().contains("tasks lost: wanted 0, got 1\n"), "{}", report.misses());
        assert!(report.misses().contains("lost: x"));
        assert!(table(&[report]).contains("MISSED"));
        report = Report::from_audit(Audit { tasks: 3, succeeded: 3, ..Audit::default() }, 0);
        assert!(report.is_met() && report.misses().is_empty());
        assert!(!table(std::slice::from_ref(&report)).contains("MISSED"));
        report.broke = Some("no".to_owned());
        assert!(!report.is_met());
    }

    #[test]
    fn a_time_that_was_never_measured_is_a_miss() {
        for (got, is_met) in [(None, false), (Some(3_000), true), (Some(3_001), false)] {
            let mut report = Report::default();
            report.within("recovery", Duration::from_secs(3), got);
            assert_eq!(report.is_met(), is_met, "{got:?}");
        }
    }

    #[test]
    fn bounds_include_their_ends() {
        let mut report = Report::default();
        report.at_most("a", 3, 3);
        report.at_least("b", 3, 3);
        assert!(report.is_met());
        report.at_most("c", 3, 4);
        report.at_least("d", 3, 2);
        assert_eq!(report.claims.iter().filter(|claim| claim.is_met).count(), 2);
    }
}
