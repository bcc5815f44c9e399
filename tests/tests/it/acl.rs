//! The users of deploy/redis-users.acl may do what their roles need, and nothing else.

mod fence;
mod needed;
mod refused;
mod roles;

use std::collections::BTreeSet;

/// The file that is shipped, and what is said of it.
const USERS: &str = include_str!("../../../deploy/redis-users.acl");
const HANDBOOK: &str = include_str!("../../../deploy/README.md");

const ROLES: [&str; 3] = ["worker", "api", "beat"];

/// The roles, and who operates them.
const ALL: [&str; 4] = ["worker", "api", "beat", OPERATOR];

const OPERATOR: &str = "operator";

/// The rules of a user.
fn rules(user: &str) -> Vec<&'static str> {
    let line = USERS.lines().find_map(|line| line.strip_prefix(&format!("user {user} ")));
    line.unwrap_or_else(|| panic!("no user `{user}`")).split(' ').collect()
}

/// The commands that a user is allowed by name.
fn commands(user: &str) -> BTreeSet<String> {
    let allowed = rules(user).into_iter().filter_map(|rule| rule.strip_prefix('+'));
    // The last one of a list that is for some keys only.
    let allowed = allowed.map(|name| name.trim_end_matches(')'));
    allowed.filter(|name| !name.starts_with('@')).map(str::to_owned).collect()
}

#[test]
fn the_handbook_says_what_each_command_is_for() {
    let mut told = ALL.map(|role| (role, BTreeSet::new()));
    // A line may go on in the next one.
    let handbook = HANDBOOK.replace("\n  `", " `");
    for line in handbook.lines().filter_map(|line| line.strip_prefix("- ")) {
        let (who, what) = line.split_once(": ").unwrap();
        for (role, commands) in &mut told {
            if who == "all" || who.split(", ").any(|name| name == *role) {
                // Every other part stands between backticks.
                commands.extend(what.split('`').skip(1).step_by(2).map(str::to_owned));
            }
        }
    }
    for (role, told) in told {
        assert_eq!(told, commands(role), "{role}");
    }
}

#[test]
fn each_user_is_confined_to_the_keys_and_channels_of_the_house() {
    for role in ALL {
        let rules = rules(role);
        let named = |rule: &&str| {
            let name = rule.trim_start_matches('+').trim_end_matches(')');
            commands(role).contains(name)
        };
        let rest: Vec<&str> = rules.into_iter().filter(|rule| !named(rule)).collect();
        let mut expected = vec!["on", "~umbel:*", "&umbel:*", "-@all", "+@connection", "-@admin"];
        expected.extend(["-@dangerous", "-select"]);
        if role == "api" {
            // What it may do to these keys only.
            expected.extend(["(~umbel:*:dead", "~umbel:*:control", "~umbel:*:task:*"]);
            expected.push("~umbel:{beat}:fired:*");
            expected.extend(["(~umbel:*:delayed", "~umbel:*:waiting", "~umbel:*:parked"]);
            expected.extend(["~umbel:*:parked:*", "~umbel:*:task:*", "~umbel:{workers}:asked:*"]);
            expected.push("(%R~umbel:*:ready:*");
        }
        if role == "beat" {
            expected.push("(~umbel:{beat}:*");
        }
        assert_eq!(rest, expected, "{role}");
    }
}
