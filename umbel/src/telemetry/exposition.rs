//! The text form of Prometheus: what several processes tell becomes one text, each line with the role
//! that told it.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
};

/// One name, with all that is told under it.
#[derive(Debug, Default)]
struct Family {
    heading: Vec<String>,
    samples: String,
}

/// Puts texts together, each with the label `role`; every name stands once, with all of its samples.
pub(crate) fn merged<'a>(told: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for (role, text) in told {
        // A sample of a histogram has another name than its family, which stands before it.
        let mut family = String::new();
        for line in text.lines() {
            if let Some(heading) = line.strip_prefix("# ") {
                let mut words = heading.splitn(3, ' ');
                let (Some(kind @ ("HELP" | "TYPE")), Some(name)) = (words.next(), words.next())
                else {
                    continue;
                };
                name.clone_into(&mut family);
                let known = &mut families.entry(family.clone()).or_default().heading;
                let prefix = format!("# {kind} ");
                if !known.iter().any(|line| line.starts_with(&prefix)) {
                    known.push(line.to_owned());
                }
            } else if let Some(sample) = labelled(line, role) {
                let own = line.split(['{', ' ']).next().unwrap_or_default();
                if !own.starts_with(&family) || family.is_empty() {
                    own.clone_into(&mut family);
                }
                let samples = &mut families.entry(family.clone()).or_default().samples;
                samples.push_str(&sample);
                samples.push('\n');
            }
        }
    }
    let mut text = String::new();
    for Family { mut heading, samples } in families.into_values() {
        if samples.is_empty() {
            continue;
        }
        heading.sort_unstable();
        for line in heading {
            text.push_str(&line);
            text.push('\n');
        }
        text.push_str(&samples);
    }
    text
}

/// A sample with one label more; `None` where a line is none.
fn labelled(line: &str, role: &str) -> Option<String> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    Some(match rest.strip_prefix('{') {
        Some(labels) if labels.starts_with('}') => format!("{name}{{role=\"{role}\"{labels}"),
        Some(labels) => format!("{name}{{role=\"{role}\",{labels}"),
        None => format!("{name}{{role=\"{role}\"}}{rest}"),
    })
}

/// A sample that is read when it is asked for, with its heading.
pub(crate) fn sample(text: &mut String, name: &str, kind: &str, help: &str, value: impl Display) {
    // A text takes any write.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_roles_tell_of_one_name_stands_together_and_says_who() {
        let api = "# TYPE a_total counter\na_total 1\n\n# HELP h how long\n# TYPE h histogram\n\
                   h_bucket{le=\"1\"} 2\nh_sum 3\nh_count 2\n";
        let worker = "# TYPE a_total counter\na_total{task=\"x y\"} 5\n# TYPE b gauge\nb{} 7\n";
        let text = merged([("api", api), ("worker", worker)]);
        assert_eq!(
            text,
            "# TYPE a_total counter\na_total{role=\"api\"} 1\na_total{role=\"worker\",task=\"x y\"} 5\n\
             # TYPE b gauge\nb{role=\"worker\"} 7\n\
             # HELP h how long\n# TYPE h histogram\n\
             h_bucket{role=\"api\",le=\"1\"} 2\nh_sum{role=\"api\"} 3\nh_count{role=\"api\"} 2\n"
        );
    }

    #[test]
    fn what_is_no_sample_is_passed_over() {
        assert_eq!(merged([("api", "nonsense\n\n# EOF\n{} 1\n")]), "");
    }
}
