//! Whether the tables are those that this program works with.

use umbel_store::{Migration, Standing, StoreError, StoreSettings};

use super::{
    Finding,
    postgres::{chain, single},
};

const CHECK: &str = "migrations";

/// By the way that migrations go: the record may be hidden from others.
pub(super) async fn examine(
    store: &StoreSettings,
    owner: &str,
    migrations: &[Migration],
) -> Vec<Finding> {
    match look(store, owner, migrations).await {
        Ok(standing) => judge(&standing),
        Err(error) => {
            let told = format!("the record of migrations cannot be read: {}", chain(error));
            vec![Finding::warning(CHECK, told)]
        }
    }
}

async fn look(
    store: &StoreSettings,
    owner: &str,
    migrations: &[Migration],
) -> Result<Standing, StoreError> {
    let db = single(store)?;
    let standing = db.migrations(owner, migrations).await;
    db.close().await;
    standing
}

const HOW: &str = "`umbel up` does it when it starts, `umbel migrate` for roles by themselves";

fn judge(standing: &Standing) -> Vec<Finding> {
    let Standing { has_record, recorded, pending, changed, unknown } = standing;
    if !has_record {
        let told = format!(
            "the tables were never made in this database: see that DATABASE_URL leads to the right one; {HOW}"
        );
        return vec![Finding::problem(CHECK, told)];
    }
    if *recorded == 0 {
        let told = "the record of migrations shows nothing to this user: it may be hidden by row level \
                    security (deploy/postgres-role.sql gives the right to read it)";
        return vec![Finding::warning(CHECK, told)];
    }
    let mut findings = Vec::new();
    if !changed.is_empty() {
        let told = format!(
            "changed after they had been applied: {}; no migration runs until their text is restored",
            changed.join(", ")
        );
        findings.push(Finding::problem(CHECK, told));
    }
    if *pending > 0 {
        let told =
            format!("the tables are older than this program: {pending} migrations wait; {HOW}");
        findings.push(Finding::warning(CHECK, told));
    }
    if !unknown.is_empty() {
        let told = format!(
            "the tables are newer than this program, which does not know: {}; fine while two releases \
             overlap, else run the newer one",
            unknown.join(", ")
        );
        findings.push(Finding::warning(CHECK, told));
    }
    if findings.is_empty() {
        let told = format!("the tables are up to date: {recorded} migrations");
        findings.push(Finding::fine(CHECK, told));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn what_stops_migrations_and_what_waits_for_them_are_told_apart() {
        let levels = |standing: &Standing| -> Vec<Level> {
            judge(standing).iter().map(|finding| finding.level).collect()
        };
        assert_eq!(levels(&Standing::default()), [Level::Problem]);
        let hidden = Standing { has_record: true, ..Standing::default() };
        assert_eq!(levels(&hidden), [Level::Warning]);
        let done = Standing { recorded: 3, ..hidden };
        assert_eq!(levels(&done), [Level::Fine]);
        let all = Standing {
            pending: 1,
            changed: vec!["1 (a) of b".to_owned()],
            unknown: vec!["9 (a) of b".to_owned()],
            ..done
        };
        assert_eq!(levels(&all), [Level::Problem, Level::Warning, Level::Warning]);
    }
}
